-- The registry: named adapters and their immutable, numbered versions.

create table adapters (
    id uuid primary key,
    organization_id uuid not null references organizations (id) on delete cascade,
    name text not null,
    -- Grows only, so that a number never names two versions.
    last_number integer not null,
    created_at timestamptz not null default clock_timestamp(),
    constraint adapters_name_key unique (organization_id, name),
    constraint adapters_organization_id_id_key unique (organization_id, id),
    constraint adapters_name_form check (name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$')
);

create index adapters_by_age on adapters (organization_id, created_at desc, id desc);

create table adapter_versions (
    id uuid primary key,
    organization_id uuid not null,
    adapter_id uuid not null,
    number integer not null,
    -- Unique: however often a job runs, it publishes once.
    job_id uuid,
    base_model_id uuid not null references base_models (id),
    digest text not null,
    -- Base, tokenizer and chat-template digests, rank, layers: what serving enforces.
    manifest jsonb not null,
    -- [{"name", "key", "sha256", "bytes"}]
    files jsonb not null,
    bytes bigint not null,
    -- Final numbers of the training.
    metrics jsonb not null default '{}',
    created_at timestamptz not null default clock_timestamp(),
    constraint adapter_versions_number_key unique (adapter_id, number),
    constraint adapter_versions_job_key unique (job_id),
    constraint adapter_versions_organization_id_id_key unique (organization_id, id),
    constraint adapter_versions_adapter foreign key (organization_id, adapter_id)
        references adapters (organization_id, id) on delete cascade,
    constraint adapter_versions_job foreign key (organization_id, job_id) references jobs (organization_id, id),
    constraint adapter_versions_digest_form check (digest ~ '^[0-9a-f]{64}$'),
    constraint adapter_versions_have_files check (jsonb_array_length(files) > 0)
);

alter table jobs add constraint jobs_adapter_version
    foreign key (organization_id, adapter_version_id) references adapter_versions (organization_id, id);

create function refuse_update() returns trigger language plpgsql as $$
begin
    raise exception 'rows of % never change', tg_table_name using errcode = 'restrict_violation';
end
$$;

create trigger adapter_versions_immutable before update on adapter_versions
    for each row execute function refuse_update();
