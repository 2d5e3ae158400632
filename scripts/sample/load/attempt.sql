-- Something is tried and taken back, in a part of the transaction that stands and in one that does not.
\set customer random(1, 20000)
BEGIN;
INSERT INTO log.events (kind, customer_id) VALUES ('search', :customer);
SAVEPOINT discount;
UPDATE shop.customers SET credit = credit + 1000 WHERE id = :customer;
INSERT INTO log.events (kind, customer_id) VALUES ('must never be seen', :customer);
ROLLBACK TO SAVEPOINT discount;
SAVEPOINT smaller;
UPDATE shop.customers SET credit = credit + 0.01 WHERE id = :customer;
RELEASE SAVEPOINT smaller;
COMMIT;
