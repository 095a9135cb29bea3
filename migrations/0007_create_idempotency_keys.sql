-- Answers to requests that carried an Idempotency-Key, to be given again when the request comes again.

create table idempotency_keys (
    organization_id uuid not null references organizations (id) on delete cascade,
    key text not null,
    -- Method and path.
    operation text not null,
    request_sha256 bytea not null,
    -- Absent while the first request is being answered.
    status integer,
    body bytea,
    created_at timestamptz not null default clock_timestamp(),
    primary key (organization_id, key),
    constraint idempotency_keys_key_length check (char_length(key) between 1 and 255),
    constraint idempotency_keys_answer_is_whole check ((status is null) = (body is null))
);

create index idempotency_keys_by_age on idempotency_keys (created_at);
