-- The catalogue of frozen models. A row without organization is shared with everybody.

create type base_model_state as enum ('pending', 'ready', 'failed');

create table base_models (
    id uuid primary key,
    organization_id uuid references organizations (id) on delete cascade,
    name text not null,
    state base_model_state not null default 'pending',
    -- The model's config.json.
    config jsonb,
    -- sha256 over the sorted (name, sha256) pairs of the files: the same bytes have the same digest everywhere.
    digest text,
    tokenizer_digest text,
    -- Absent where the model has no chat template.
    template_digest text,
    -- [{"name", "key", "sha256", "bytes"}]
    files jsonb not null default '[]',
    parameters bigint,
    max_seq_len integer,
    -- {"code", "message"}
    error jsonb,
    created_by uuid references users (id) on delete set null,
    created_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    constraint base_models_name_key unique nulls not distinct (organization_id, name),
    constraint base_models_name_form check (name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'),
    constraint base_models_ready_is_complete check (
        state <> 'ready'
        or (config is not null and digest is not null and tokenizer_digest is not null
            and parameters is not null and max_seq_len is not null and jsonb_array_length(files) > 0)
    ),
    constraint base_models_error_when_failed check ((state = 'failed') = (error is not null)),
    constraint base_models_finished_when_final check ((state = 'pending') = (finished_at is null))
);

create index base_models_by_age on base_models (created_at desc, id desc);
