-- The oldest of the new customers leaves; cards and vouchers go with the customer.
BEGIN;
DELETE FROM shop.customers
    WHERE id = (SELECT id FROM shop.customers WHERE id > 20000 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED);
COMMIT;
