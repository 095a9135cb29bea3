-- Aliases of adapter versions with all their moves, tombstones of deleted versions, and what a version came from.

-- An alias names a version of its own adapter, so both are part of the key that it refers to.
alter table adapter_versions add constraint adapter_versions_adapter_id_id_key unique (organization_id, adapter_id, id);

create table adapter_aliases (
    organization_id uuid not null,
    adapter_id uuid not null,
    name text not null,
    adapter_version_id uuid not null,
    -- Only admins and owners move, delete or unprotect it.
    protected boolean not null default false,
    moved_by uuid references users (id) on delete set null,
    moved_at timestamptz not null default clock_timestamp(),
    primary key (adapter_id, name),
    constraint adapter_aliases_adapter foreign key (organization_id, adapter_id)
        references adapters (organization_id, id) on delete cascade,
    constraint adapter_aliases_version foreign key (organization_id, adapter_id, adapter_version_id)
        references adapter_versions (organization_id, adapter_id, id),
    constraint adapter_aliases_name_form check (
        name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$' and name ~ '[^0-9]' and name <> 'latest'
    )
);

create index adapter_aliases_by_version on adapter_aliases (adapter_version_id);

-- One row a change of an alias, for ever.
create table adapter_alias_moves (
    id uuid primary key,
    organization_id uuid not null,
    adapter_id uuid not null,
    alias text not null,
    -- Absent where the alias was new.
    from_version_id uuid,
    -- Absent where the alias was deleted.
    to_version_id uuid,
    -- Whether it was protected afterwards.
    protected boolean not null,
    moved_by uuid references users (id) on delete set null,
    reason text,
    moved_at timestamptz not null default clock_timestamp(),
    constraint adapter_alias_moves_adapter foreign key (organization_id, adapter_id)
        references adapters (organization_id, id) on delete cascade,
    constraint adapter_alias_moves_from foreign key (organization_id, adapter_id, from_version_id)
        references adapter_versions (organization_id, adapter_id, id),
    constraint adapter_alias_moves_to foreign key (organization_id, adapter_id, to_version_id)
        references adapter_versions (organization_id, adapter_id, id),
    constraint adapter_alias_moves_say_something check (from_version_id is not null or to_version_id is not null),
    constraint adapter_alias_moves_reason_length check (char_length(reason) between 1 and 1000)
);

create index adapter_alias_moves_by_age on adapter_alias_moves (adapter_id, moved_at desc, id desc);

-- History loses a person who is deleted, and nothing else.
create function refuse_update_but_of_person() returns trigger language plpgsql as $$
begin
    if to_jsonb(old) - tg_argv[0] = to_jsonb(new) - tg_argv[0] and to_jsonb(new) ->> tg_argv[0] is null then
        return new;
    end if;
    raise exception 'rows of % never change', tg_table_name using errcode = 'restrict_violation';
end
$$;

create trigger adapter_alias_moves_immutable before update on adapter_alias_moves
    for each row execute function refuse_update_but_of_person('moved_by');

-- A deleted version: its row stays with number, digest and manifest; its files are gone.
create table adapter_version_tombstones (
    adapter_version_id uuid primary key,
    organization_id uuid not null,
    deleted_by uuid references users (id) on delete set null,
    reason text,
    deleted_at timestamptz not null default clock_timestamp(),
    constraint adapter_version_tombstones_version foreign key (organization_id, adapter_version_id)
        references adapter_versions (organization_id, id) on delete cascade,
    constraint adapter_version_tombstones_reason_length check (char_length(reason) between 1 and 1000)
);

create trigger adapter_version_tombstones_immutable before update on adapter_version_tombstones
    for each row execute function refuse_update_but_of_person('deleted_by');

-- The version whose adapter its training began with.
alter table adapter_versions add column parent_version_id uuid;
alter table adapter_versions add constraint adapter_versions_parent foreign key (organization_id, parent_version_id)
    references adapter_versions (organization_id, id);
create index adapter_versions_by_parent on adapter_versions (parent_version_id) where parent_version_id is not null;

-- Optimizer steps of the checkpoint that it was made from; absent where it is what the job ended with.
alter table adapter_versions add column checkpoint_step bigint;
alter table adapter_versions add constraint adapter_versions_checkpoint_of_job
    check (checkpoint_step is null or (job_id is not null and checkpoint_step > 0));
-- However often a job runs, it publishes its end once, and each checkpoint once.
alter table adapter_versions drop constraint adapter_versions_job_key;
create unique index adapter_versions_job_key on adapter_versions (job_id) where checkpoint_step is null;
create unique index adapter_versions_checkpoint_key on adapter_versions (job_id, checkpoint_step)
    where checkpoint_step is not null;
