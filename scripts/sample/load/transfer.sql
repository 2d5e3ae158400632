-- Money moves between two tills. In between one may be overdrawn and the sum is wrong; after the commit never.
\set from_store random(1, 12)
\set from_no random(1, 3)
\set to_store random(1, 12)
\set to_no random(1, 3)
\set amount random(1, 5000)
BEGIN;
SELECT count(*) FROM (SELECT FROM shop.tills
    WHERE (store_id, no) IN ((:from_store, :from_no), (:to_store, :to_no))
    ORDER BY store_id, no FOR UPDATE) locked;
UPDATE shop.tills SET balance = balance - :amount / 100.0 WHERE store_id = :from_store AND no = :from_no;
UPDATE shop.tills SET balance = balance + :amount / 100.0 WHERE store_id = :to_store AND no = :to_no;
-- Back again if the till does not have that much.
WITH short AS (
    SELECT least(balance, 0) AS lacks FROM shop.tills WHERE store_id = :from_store AND no = :from_no
)
UPDATE shop.tills
    SET balance = balance + CASE WHEN (store_id, no) = (:from_store, :from_no) THEN -lacks ELSE lacks END
    FROM short
    WHERE lacks < 0 AND (store_id, no) IN ((:from_store, :from_no), (:to_store, :to_no));
COMMIT;
