-- Training jobs, which are also the queue, and what their runs leave behind.
--
-- A worker holds a job by (epoch, lease_id). Claiming raises the epoch and draws a new lease_id; every write of a
-- run names both and is refused once either has changed. lease_id guards against an epoch that comes twice, after a
-- fail-over that lost the last transaction.

create type job_state as enum ('queued', 'running', 'succeeded', 'failed', 'cancelled');

create table jobs (
    id uuid primary key,
    organization_id uuid not null references organizations (id) on delete cascade,
    state job_state not null default 'queued',
    -- The adapter whose next version this job makes.
    adapter text not null,
    base_model_id uuid not null references base_models (id),
    dataset_id uuid not null,
    -- Every value decided; see tunesmith_types::hyperparameters.
    hyperparameters jsonb not null,
    created_by uuid references users (id) on delete set null,
    -- Not before this time; a retry moves it ahead.
    run_at timestamptz not null default clock_timestamp(),
    -- Runs that ended with an error. A drain or a rescue does not count.
    attempts integer not null default 0,
    max_attempts integer not null default 3,
    -- Runs whose worker went silent.
    rescues integer not null default 0,
    epoch bigint not null default 0,
    lease_id uuid,
    lease_until timestamptz,
    worker text,
    cancel_requested_at timestamptz,
    -- Optimizer steps done.
    step bigint not null default 0,
    total_steps bigint,
    last_progress_at timestamptz,
    -- {"code", "message"}
    error jsonb,
    adapter_version_id uuid,
    -- The finished metrics as one file: {"name", "key", "sha256", "bytes"}
    metrics_file jsonb,
    created_at timestamptz not null default clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    constraint jobs_organization_id_id_key unique (organization_id, id),
    constraint jobs_dataset foreign key (organization_id, dataset_id) references datasets (organization_id, id),
    constraint jobs_adapter_form check (adapter ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'),
    constraint jobs_counters check (
        attempts >= 0 and max_attempts between 1 and 20 and rescues >= 0 and epoch >= 0 and step >= 0
    ),
    constraint jobs_leased_while_running check (
        (state = 'running') = (lease_id is not null)
        and (lease_id is null) = (lease_until is null)
        and (lease_id is null) = (worker is null)
        and (state <> 'running' or started_at is not null)
    ),
    constraint jobs_finished_when_final check (
        (state in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null)
    ),
    constraint jobs_error_when_failed check ((state = 'failed') = (error is not null)),
    constraint jobs_version_when_succeeded check ((state = 'succeeded') = (adapter_version_id is not null)),
    constraint jobs_cancelled_on_request check (state <> 'cancelled' or cancel_requested_at is not null)
);

-- In the order in which jobs are claimed.
create index jobs_queued on jobs (run_at, id) where state = 'queued';
-- In the order in which leases run out.
create index jobs_running on jobs (lease_until, id) where state = 'running';
create index jobs_by_age on jobs (organization_id, created_at desc, id desc);

create type run_outcome as enum ('succeeded', 'failed', 'cancelled', 'released', 'lease_lost');

-- One attempt under one lease.
create table runs (
    id uuid primary key,
    organization_id uuid not null,
    job_id uuid not null,
    epoch bigint not null,
    lease_id uuid not null,
    worker text not null,
    -- What the trainer reported when it started.
    device text,
    dtype text,
    resumed_from_step bigint,
    started_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    outcome run_outcome,
    -- {"code", "message"}
    error jsonb,
    constraint runs_lease_key unique (job_id, epoch, lease_id),
    constraint runs_job foreign key (organization_id, job_id) references jobs (organization_id, id) on delete cascade,
    constraint runs_outcome_when_ended check ((ended_at is null) = (outcome is null))
);

-- A job never has two open runs: whatever takes it from a worker also ends that worker's run.
create unique index runs_one_open_per_job on runs (job_id) where ended_at is null;

create type event_level as enum ('info', 'warn', 'error');

create table job_events (
    id uuid primary key,
    organization_id uuid not null,
    job_id uuid not null,
    level event_level not null,
    -- Stable, for programs.
    code text not null,
    message text not null,
    data jsonb not null default '{}',
    created_at timestamptz not null default clock_timestamp(),
    constraint job_events_job foreign key (organization_id, job_id)
        references jobs (organization_id, id) on delete cascade
);

create index job_events_by_age on job_events (job_id, created_at, id);

-- One row a step. A step that a later run does again overwrites the row.
create table job_metrics (
    organization_id uuid not null,
    job_id uuid not null,
    step bigint not null,
    -- Passes over the data, with a fraction.
    data_epoch double precision,
    loss double precision,
    learning_rate double precision,
    grad_norm double precision,
    tokens bigint,
    supervised_tokens bigint,
    seconds double precision,
    eval_loss double precision,
    eval_token_accuracy double precision,
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (job_id, step),
    constraint job_metrics_job foreign key (organization_id, job_id)
        references jobs (organization_id, id) on delete cascade
);

create table checkpoints (
    id uuid primary key,
    organization_id uuid not null,
    job_id uuid not null,
    -- Epoch of the lease under which it was written.
    epoch bigint not null,
    step bigint not null,
    -- [{"name", "key", "sha256", "bytes"}]
    files jsonb not null,
    -- Of the configuration that a resuming run must have too.
    config_hash text not null,
    created_at timestamptz not null default clock_timestamp(),
    constraint checkpoints_step_key unique (job_id, epoch, step),
    constraint checkpoints_job foreign key (organization_id, job_id)
        references jobs (organization_id, id) on delete cascade,
    constraint checkpoints_have_files check (jsonb_array_length(files) > 0)
);
