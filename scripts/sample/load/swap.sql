-- Two copies of a film change their numbers, which are unique, but only after the statement.
\set film random(1, 2000)
BEGIN;
SELECT min(store_id) AS store FROM shop.inventory WHERE film_id = :film AND copy_no = 2 \gset
SELECT count(*) FROM (SELECT FROM shop.inventory
    WHERE film_id = :film AND store_id = :store ORDER BY id FOR UPDATE) locked;
UPDATE shop.inventory SET copy_no = 3 - copy_no
    WHERE film_id = :film AND store_id = :store AND copy_no IN (1, 2);
COMMIT;
