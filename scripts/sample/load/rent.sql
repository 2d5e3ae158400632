-- A customer takes a copy from the shelf, if it is there.
\set copy random(1, 15000)
\set customer random(1, 20000)
\set staff random(1, 120)
BEGIN;
UPDATE shop.inventory SET state = 'rented' WHERE id = :copy AND state = 'shelf';
INSERT INTO shop.rentals (inventory_id, customer_id, staff_id, store_id, till_no, rented_at, due)
    SELECT id, :customer, :staff, store_id, 1 + :staff % 3, now(), current_date + 7
    FROM shop.inventory i
    WHERE id = :copy AND state = 'rented'
        AND NOT EXISTS (SELECT FROM shop.rentals r WHERE r.inventory_id = i.id AND r.returned_at IS NULL);
INSERT INTO log.events (kind, customer_id, detail) VALUES ('rent', :customer, jsonb_build_object('copy', :copy));
COMMIT;
