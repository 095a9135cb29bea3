-- Organizations (the tenants), the people in them, and the two kinds of credentials.
-- Ids are UUIDv7 made by the program: they name their row before it exists, in a blob key for instance.
-- Times come from the database's clock only, so that processes with wrong clocks agree.

create table organizations (
    id uuid primary key,
    name text not null,
    -- The organization of a single-machine installation, which exists without a sign-up.
    is_default boolean not null default false,
    created_at timestamptz not null default clock_timestamp(),
    constraint organizations_name_length check (char_length(name) between 1 and 120)
);

create unique index organizations_one_default on organizations (is_default) where is_default;

create table users (
    id uuid primary key,
    email text not null,
    -- An argon2id string that names its own parameters.
    password_hash text not null,
    created_at timestamptz not null default clock_timestamp(),
    constraint users_email_key unique (email),
    constraint users_email_lower_case check (email = lower(email) and char_length(email) between 3 and 254)
);

create type member_role as enum ('viewer', 'member', 'admin', 'owner');

create table memberships (
    organization_id uuid not null references organizations (id) on delete cascade,
    user_id uuid not null references users (id) on delete cascade,
    role member_role not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (organization_id, user_id)
);

create index memberships_by_user on memberships (user_id);

-- A refresh token is used once and replaced. Tokens that descend from one login are a family; using a spent one
-- means that it was stolen, and ends the whole family.
create table refresh_tokens (
    token_sha256 bytea primary key,
    family_id uuid not null,
    user_id uuid not null,
    organization_id uuid not null,
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    used_at timestamptz,
    revoked_at timestamptz,
    constraint refresh_tokens_sha256_length check (octet_length(token_sha256) = 32),
    -- Whoever leaves the organization is logged out of it.
    constraint refresh_tokens_membership foreign key (organization_id, user_id)
        references memberships (organization_id, user_id) on delete cascade
);

create index refresh_tokens_by_family on refresh_tokens (family_id);
create index refresh_tokens_by_member on refresh_tokens (organization_id, user_id);

create table api_keys (
    id uuid primary key,
    organization_id uuid not null references organizations (id) on delete cascade,
    name text not null,
    role member_role not null,
    created_by uuid references users (id) on delete set null,
    -- Only the hash is kept. The secret has 256 bits of entropy, so a plain sha256 cannot be searched.
    secret_sha256 bytea not null,
    -- First characters of the secret, by which a person recognises it.
    display_prefix text not null,
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    constraint api_keys_secret_key unique (secret_sha256),
    constraint api_keys_sha256_length check (octet_length(secret_sha256) = 32),
    constraint api_keys_name_length check (char_length(name) between 1 and 120),
    constraint api_keys_organization_id_id_key unique (organization_id, id)
);

create index api_keys_by_age on api_keys (organization_id, created_at desc, id desc);
