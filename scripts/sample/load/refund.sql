-- A payment was entered with the wrong date: it moves to another partition. Or it is taken back.
\set rental 2 * random(1, 100000)
\set days random(1, 60)
\set wrong random(0, 1)
BEGIN;
SELECT coalesce(max(id), 0) AS payment, quote_literal(coalesce(max(paid_at), now())) AS at
    FROM (SELECT id, paid_at FROM shop.payments WHERE rental_id = :rental ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) one \gset
\if :wrong
DELETE FROM shop.payments WHERE id = :payment AND paid_at = :at;
\else
UPDATE shop.payments SET paid_at = paid_at - :days * interval '1 day' WHERE id = :payment AND paid_at = :at;
\endif
COMMIT;
