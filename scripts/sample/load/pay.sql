-- Someone pays: today, or it is entered late, into the partition of an earlier month or the default.
\set rental 2 * random(1, 100000)
\set days random_exponential(0, 750, 12)
INSERT INTO shop.payments (rental_id, customer_id, paid_at, amount, method)
    SELECT id, customer_id, now() - :days * interval '1 day', 1 + :days % 7 * 0.5,
           (ARRAY['cash', 'card', 'voucher'])[1 + :days % 3]
    FROM shop.rentals WHERE id = :rental;
