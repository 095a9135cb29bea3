-- Splits, canaries, shadows and rollbacks of deployments; what was asked of models, and how people liked the answers.

alter table deployment_revisions
    -- What made it.
    add column kind text not null default 'promote',
    -- The newest revision when this one was made.
    add column parent_number integer,
    -- Why it was made, in the words of whoever made it.
    add column note text,
    -- Whether every replica held its versions when the reconciler last looked: then a revision of the same versions
    -- answers at once.
    add column loaded boolean not null default false,
    add constraint deployment_revisions_kind_known
        check (kind in ('create', 'promote', 'split', 'canary', 'rollback', 'alias'));

update deployment_revisions set kind = 'create' where number = 1;
update deployment_revisions set parent_number = number - 1 where number > 1;
update deployment_revisions set loaded = true where state = 'active';

-- The last one that answered before the present one: its versions stay loaded.
create index deployment_revisions_by_end on deployment_revisions (deployment_id, ended_at desc)
    where state = 'superseded' and activated_at is not null;

-- A roll-out by steps. Each step is a revision; whoever finds a step over makes the next by compare-and-set.
create table canaries (
    id uuid primary key,
    organization_id uuid not null,
    deployment_id uuid not null,
    state text not null default 'running',
    -- Routes to which it goes back, as in deployment_revisions.
    stable_routes jsonb not null,
    -- The version that is tried.
    candidate_version_id uuid not null,
    -- Percent of the requests by step; the last is 100.
    steps integer[] not null,
    -- Index of the present step.
    step integer not null default 0,
    step_seconds integer not null,
    -- What must hold before the next step.
    gates jsonb not null,
    -- Numbers of the revisions that it made, one a step.
    revisions integer[] not null,
    -- Why it ended, or what it waits for.
    reason text,
    created_by uuid references users (id) on delete set null,
    created_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    constraint canaries_deployment foreign key (organization_id, deployment_id)
        references deployments (organization_id, id) on delete cascade,
    constraint canaries_candidate foreign key (organization_id, candidate_version_id)
        references adapter_versions (organization_id, id),
    constraint canaries_state_known check (state in ('running', 'completed', 'stopped', 'aborted', 'superseded')),
    constraint canaries_end check ((state = 'running') = (ended_at is null)),
    constraint canaries_step_exists check (step between 0 and cardinality(steps) - 1),
    constraint canaries_step_seconds_positive check (step_seconds > 0)
);

create unique index canaries_one_running on canaries (deployment_id) where state = 'running';
create index canaries_by_age on canaries (deployment_id, created_at desc);

-- A share of a deployment's requests is also sent to this version, and the answers are only compared.
create table shadows (
    deployment_id uuid primary key,
    organization_id uuid not null,
    adapter_version_id uuid not null,
    percent integer not null,
    created_by uuid references users (id) on delete set null,
    created_at timestamptz not null default clock_timestamp(),
    constraint shadows_deployment foreign key (organization_id, deployment_id)
        references deployments (organization_id, id) on delete cascade,
    constraint shadows_version foreign key (organization_id, adapter_version_id)
        references adapter_versions (organization_id, id),
    constraint shadows_percent check (percent between 1 and 100)
);

-- What was asked of models. Written in batches after the answers; deployments, versions and base models may be gone
-- by then or later, so nothing but the organization is a reference.
create table inference_requests (
    -- The digits of the answer's id (chatcmpl-... or cmpl-...).
    id uuid primary key,
    organization_id uuid not null references organizations (id) on delete cascade,
    -- The public name that was asked for.
    model text not null,
    base_model_id uuid not null,
    -- Absent where the base model itself was asked for.
    deployment_id uuid,
    revision_number integer,
    -- Absent where the base model answered.
    adapter_version_id uuid,
    -- <adapter>@<number>, or base.
    version text not null,
    endpoint text not null,
    streamed boolean not null,
    status text not null,
    error_code text,
    -- Absent where the replica never said.
    prompt_tokens bigint,
    completion_tokens bigint,
    cached_tokens bigint,
    first_token_ms double precision,
    duration_ms double precision not null,
    -- A mirrored request: nobody saw its answer.
    mirrors uuid,
    text_equal boolean,
    similarity double precision,
    created_at timestamptz not null,
    constraint inference_requests_endpoint_known check (endpoint in ('chat', 'completion')),
    constraint inference_requests_status_known check (status in ('ok', 'error', 'rejected', 'cancelled', 'dropped'))
);

create index inference_requests_by_organization on inference_requests (organization_id, created_at);
create index inference_requests_by_deployment on inference_requests (deployment_id, created_at)
    where deployment_id is not null;
create index inference_requests_by_revision on inference_requests (deployment_id, revision_number)
    where deployment_id is not null;

-- How people liked an answer; the last word counts.
create table inference_feedback (
    request_id uuid primary key references inference_requests (id) on delete cascade,
    organization_id uuid not null references organizations (id) on delete cascade,
    -- -1 bad, 0 neither, 1 good.
    score double precision not null,
    comment text,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint inference_feedback_score check (score between -1 and 1),
    constraint inference_feedback_comment_length check (char_length(comment) <= 4000)
);
