SELECT p.id, p.machine_id, m.name AS machine_name, p.seq, p.created_at, p.consistency, p.state, p.disks
FROM points p JOIN machines m ON m.id = p.machine_id
