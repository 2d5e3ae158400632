-- A customer moves: a composite, an array and a document change.
\set customer random(1, 20000)
UPDATE shop.customers
    SET home = ROW(:customer % 97 || ' Hill Road', lpad(:customer::text, 5, '0'), (home).city)::shop.address,
        phones = (ARRAY['+00 777 ' || :customer] || phones)[1:3],
        preferences = preferences || jsonb_build_object('moved', current_date)
    WHERE id = :customer;
