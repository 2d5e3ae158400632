-- A copy comes back, and is a little worse for it.
\set copy random(1, 15000)
BEGIN;
WITH back AS (
    UPDATE shop.rentals SET returned_at = now()
    WHERE id = (SELECT id FROM shop.rentals
                WHERE returned_at IS NULL AND inventory_id >= :copy
                ORDER BY inventory_id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING inventory_id, customer_id
), shelved AS (
    UPDATE shop.inventory i SET state = 'shelf', condition = i.condition * 0.99
    FROM back WHERE i.id = back.inventory_id
)
INSERT INTO log.events (kind, customer_id, detail)
    SELECT 'return', customer_id, jsonb_build_object('copy', inventory_id) FROM back;
COMMIT;
