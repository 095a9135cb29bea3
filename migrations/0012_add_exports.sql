-- Exports: an adapter version in another form (a PEFT archive with a model card, merged weights, GGUF), made by a worker
-- under a lease, once per version, form and number format.

create table adapter_exports (
    id uuid primary key,
    organization_id uuid not null,
    version_id uuid not null,
    format text not null,
    -- `auto` is what the form has by itself, such as the base model's.
    dtype text not null,
    state text not null default 'queued',
    -- Claims so far, whether they ended with an error or with silence.
    attempts integer not null default 0,
    run_at timestamptz not null default clock_timestamp(),
    -- The fencing token, as in `jobs`.
    epoch bigint not null default 0,
    lease_id uuid,
    lease_until timestamptz,
    worker text,
    -- [{"name", "key", "sha256", "bytes"}]
    files jsonb not null default '[]',
    -- How what was made was compared with what it was made from.
    verification jsonb,
    -- {"code", "message"}
    error jsonb,
    created_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    constraint adapter_exports_once unique (version_id, format, dtype),
    constraint adapter_exports_version foreign key (organization_id, version_id)
        references adapter_versions (organization_id, id) on delete cascade,
    constraint adapter_exports_format check (format in ('peft', 'merged', 'gguf')),
    constraint adapter_exports_dtype check (dtype in ('auto', 'float32', 'float16', 'bfloat16')),
    constraint adapter_exports_state check (state in ('queued', 'running', 'succeeded', 'failed')),
    constraint adapter_exports_lease check (state <> 'running' or (lease_id is not null and lease_until is not null)),
    constraint adapter_exports_succeeded check (
        state <> 'succeeded' or (verification is not null and jsonb_array_length(files) > 0)),
    constraint adapter_exports_failed check (state <> 'failed' or error is not null)
);

create index adapter_exports_due on adapter_exports (run_at, id) where state in ('queued', 'running');
