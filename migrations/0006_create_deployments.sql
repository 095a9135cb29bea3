-- Public model names, the revisions that say where their requests go, and the inference processes that answer.

create table deployments (
    id uuid primary key,
    organization_id uuid not null references organizations (id) on delete cascade,
    name text not null,
    base_model_id uuid not null references base_models (id),
    -- Number of the newest revision. Whoever makes the next one names the number that he saw.
    last_number integer not null default 0,
    created_by uuid references users (id) on delete set null,
    created_at timestamptz not null default clock_timestamp(),
    constraint deployments_name_key unique (organization_id, name),
    constraint deployments_organization_id_id_key unique (organization_id, id),
    constraint deployments_name_form check (name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$')
);

create index deployments_by_age on deployments (organization_id, created_at desc, id desc);

create type revision_state as enum ('pending', 'active', 'superseded', 'failed');

create table deployment_revisions (
    id uuid primary key,
    organization_id uuid not null,
    deployment_id uuid not null,
    number integer not null,
    state revision_state not null default 'pending',
    -- [{"adapter_version_id": "ver_..." or null for the base, "weight": 1..100}]; the weights sum to 100.
    routes jsonb not null,
    -- Why it failed or was superseded.
    reason text,
    created_by uuid references users (id) on delete set null,
    created_at timestamptz not null default clock_timestamp(),
    activated_at timestamptz,
    ended_at timestamptz,
    constraint deployment_revisions_number_key unique (deployment_id, number),
    constraint deployment_revisions_deployment foreign key (organization_id, deployment_id)
        references deployments (organization_id, id) on delete cascade,
    constraint deployment_revisions_have_routes check (jsonb_array_length(routes) > 0),
    constraint deployment_revisions_times check (
        (state <> 'active' or activated_at is not null)
        and (state in ('superseded', 'failed')) = (ended_at is not null)
        and (state <> 'failed' or reason is not null)
    )
);

-- At most one answers, at most one is being made ready.
create unique index deployment_revisions_one_active on deployment_revisions (deployment_id) where state = 'active';
create unique index deployment_revisions_one_pending on deployment_revisions (deployment_id) where state = 'pending';

-- Not a tenant's: a replica serves one base model for everybody who may use it.
create table replicas (
    id uuid primary key,
    base_model_id uuid not null references base_models (id) on delete cascade,
    url text not null,
    kind text not null,
    last_seen_at timestamptz not null default clock_timestamp(),
    created_at timestamptz not null default clock_timestamp(),
    constraint replicas_url_key unique (url),
    constraint replicas_kind_known check (kind in ('engine', 'vllm'))
);
