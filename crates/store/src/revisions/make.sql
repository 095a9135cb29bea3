-- Makes the next revision of a deployment that this transaction has locked in a statement before, so that this one sees
-- what whoever held the lock has left. All parts see the state before any of them.
with answering as (
    (select routes, loaded, true as active from deployment_revisions
     where deployment_id = $2 and state = 'active')
    union all
    -- The one before it stays loaded.
    (select routes, loaded, false from deployment_revisions
     where deployment_id = $2 and state = 'superseded' and activated_at is not null
     order by ended_at desc, number desc limit 1)
), decided as (
    -- At once where every replica has all versions, and one revision answers already.
    select exists (select from answering where active) and not exists (
               select from unnest($9::text[]) as wanted
               where not exists (
                   select from answering cross join jsonb_array_elements(answering.routes) as route
                   where answering.loaded and route ->> 'adapter_version_id' = wanted
               )
           ) as at_once
), ended as (
    -- A canary is over, unless the revision is its own.
    update canaries set state = 'superseded', reason = $10, ended_at = clock_timestamp()
    where deployment_id = $2 and state = 'running' and $5 <> 'canary'
), overtaken as (
    update deployment_revisions as older
    set state = 'superseded', ended_at = clock_timestamp(),
        reason = case when older.state = 'pending' then 'a newer revision was made before it was ready'
                      else older.reason end
    from decided
    where older.deployment_id = $2 and (older.state = 'pending' or (older.state = 'active' and decided.at_once))
    returning older.id
), made as (
    insert into deployment_revisions (id, organization_id, deployment_id, number, kind, parent_number, routes, note,
                                      created_by, state, activated_at, loaded)
    select $1, $3, $2, $4, $5, nullif($4 - 1, 0), $6, $7, $8,
           case when at_once then 'active' else 'pending' end::revision_state,
           case when at_once then clock_timestamp() end, at_once
    from decided
    -- Counting them is what makes them be overtaken first: two cannot be active.
    where (select count(*) from overtaken) >= 0
    returning state, created_at, activated_at
)
select made.state::text as "state!", made.created_at as "created_at!", made.activated_at as "activated_at?",
       exists (select from adapter_version_tombstones where adapter_version_id = any($11)) as "deleted!"
from made cross join pg_notify($12, $13)
