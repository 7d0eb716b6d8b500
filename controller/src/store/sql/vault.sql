SELECT count(*) FILTER (WHERE state = 'listed') AS listed_points,
       count(*) FILTER (WHERE state = 'damaged') AS damaged_points,
       count(*) FILTER (WHERE state = 'soft_deleted') AS soft_deleted_points,
       coalesce(sum(stored_bytes) FILTER (WHERE state <> 'purged'), 0)::bigint AS stored_bytes
FROM points
