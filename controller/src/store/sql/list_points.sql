SELECT p.id, p.machine_id, m.name AS machine_name, p.seq, p.created_at, p.consistency, p.state, p.disks
FROM points p JOIN machines m ON m.id = p.machine_id

WHERE ($1::uuid IS NULL OR p.machine_id = $1)
  AND ($2::timestamptz IS NULL OR (p.created_at, p.id) < ($2, $3::uuid))
ORDER BY p.created_at DESC, p.id DESC LIMIT $4
