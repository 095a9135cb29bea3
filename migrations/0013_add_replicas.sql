-- What a replica can hold, so that an adapter that no replica of its base model can serve is refused when the job or
-- the deployment is made, not when it is served. Unknown where null.
alter table replicas
    add column max_rank integer,
    add column max_adapters integer,
    add constraint replicas_max_rank_positive check (max_rank > 0),
    add constraint replicas_max_adapters_positive check (max_adapters > 0);

create index replicas_by_base_model on replicas (base_model_id, last_seen_at);
