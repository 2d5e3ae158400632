-- A new customer with a card, a voucher, and a first login.
\set store random(1, 12)
BEGIN;
INSERT INTO shop.customers (store_id, name, email, home, phones, preferences, joined)
    VALUES (:store, E'New "Customer"\n\\ O''Hara', md5(random()::text || clock_timestamp()) || '@new.example',
            ROW('1 New Road', NULL, E'Łódź\t')::shop.address, '{}', '{"news": true}', current_date)
    RETURNING id AS customer \gset
INSERT INTO shop.cards VALUES ('N' || lpad(:customer::text, 11, '0'), :customer);
INSERT INTO shop.vouchers VALUES (upper(md5('new' || :customer)), :customer, 5, daterange(current_date, NULL));
INSERT INTO log.events (kind, customer_id) VALUES ('login', :customer);
COMMIT;
