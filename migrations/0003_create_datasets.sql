-- Immutable files of examples. A row is written once the bytes are in the object store under blob_key.

-- The counter makes numbers grow and never come back, also when a dataset is deleted later.
create table dataset_names (
    organization_id uuid not null references organizations (id) on delete cascade,
    name text not null,
    last_number integer not null,
    primary key (organization_id, name),
    constraint dataset_names_name_form check (name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$')
);

create type dataset_state as enum ('validating', 'valid', 'invalid');

create table datasets (
    id uuid primary key,
    organization_id uuid not null,
    name text not null,
    number integer not null,
    state dataset_state not null default 'validating',
    sha256 text not null,
    bytes bigint not null,
    blob_key text not null,
    -- Good examples; known after validation.
    examples bigint,
    -- What the validator found, with each bad line's number, reason and field.
    report jsonb,
    created_by uuid references users (id) on delete set null,
    created_at timestamptz not null default clock_timestamp(),
    validated_at timestamptz,
    constraint datasets_name_number_key unique (organization_id, name, number),
    constraint datasets_organization_id_id_key unique (organization_id, id),
    constraint datasets_name foreign key (organization_id, name)
        references dataset_names (organization_id, name) on delete cascade,
    constraint datasets_sha256_form check (sha256 ~ '^[0-9a-f]{64}$'),
    constraint datasets_bytes_not_negative check (bytes >= 0),
    constraint datasets_report_when_validated check (
        (state = 'validating') = (validated_at is null) and (validated_at is null) = (report is null)
        and (state <> 'valid' or examples > 0)
    )
);

create index datasets_by_age on datasets (organization_id, created_at desc, id desc);
-- What an API process that died has left to be validated.
create index datasets_validating on datasets (created_at) where state = 'validating';
