-- A voucher gets another code, which is its primary key; its uses follow.
\set from random(0, 255)
BEGIN;
UPDATE shop.vouchers SET code = upper(md5(code || random()))
    WHERE code = (SELECT code FROM shop.vouchers WHERE code >= upper(lpad(to_hex(:from), 2, '0'))
                  ORDER BY code LIMIT 1 FOR UPDATE SKIP LOCKED);
COMMIT;
