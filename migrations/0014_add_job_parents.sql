-- The version whose adapter a job begins with; absent where it begins with a fresh one.
alter table jobs add column parent_version_id uuid;
alter table jobs add constraint jobs_parent foreign key (organization_id, parent_version_id)
    references adapter_versions (organization_id, id);
create index jobs_by_parent on jobs (parent_version_id) where parent_version_id is not null;
