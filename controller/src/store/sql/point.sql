SELECT p.id, p.machine_id, m.name AS machine_name, p.seq, p.hash, p.decisions, p.created_at, p.consistency, p.state, p.disks,
       p.deleted_at, p.purge_after, p.lock_mode, p.locked_until,
       p.retained_mode, p.retained_until
FROM points p JOIN machines m ON m.id = p.machine_id
