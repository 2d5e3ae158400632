-- The sample database's rows: about 350,000, the same on every machine and version.
-- See schema.sql, which comes first. Made up by dice, which rolls the same for the same n.

SET timezone = 'GMT';

CREATE FUNCTION pg_temp.dice(n bigint, salt int, sides int) RETURNS int LANGUAGE sql IMMUTABLE
    AS 'SELECT abs(hashint8extended($1, $2) % $3)::int';
CREATE FUNCTION pg_temp.pick(n bigint, salt int, choices text[]) RETURNS text LANGUAGE sql IMMUTABLE
    AS 'SELECT $3[1 + abs(hashint8extended($1, $2) % cardinality($3))]';

-- These would record the load as if it were business.
ALTER TABLE shop.films DISABLE TRIGGER audit;
ALTER TABLE shop.customers DISABLE TRIGGER audit;
ALTER TABLE shop.inventory DISABLE TRIGGER stock;

INSERT INTO shop.stores (name, location, opening, manager_id)
SELECT 'Store ' || city, ROW(n || ' Market Street', (10000 + n * 731)::text, city)::shop.address,
       jsonb_build_object('mon', '[9,20)', 'sun', CASE WHEN n % 3 = 0 THEN '[12,18)' END), n
FROM unnest('{Aarau,Bergen,Córdoba,Dijon,Évora,Faro,Győr,Haarlem,Izola,Jena,Kraków,Łódź}'::text[])
     WITH ORDINALITY AS c(city, n)
ORDER BY n;

INSERT INTO shop.staff (store_id, boss_id, name, email, skills, photo, hours)
SELECT 1 + (n - 1) % 12, CASE WHEN n > 12 THEN 1 + (n - 1) % 12 END,
       pg_temp.pick(n, 1, '{Ada,Bo,Carla,Dov,Émile,Fay,Gül,Hana,Ivo,Jun}') || ' ' ||
           pg_temp.pick(n, 2, '{Berg,Costa,Dahl,Eder,Fuchs,Grün,Holm}'),
       'staff' || n || '@stores.example',
       (E'{till,stock,"the \\"difficult\\" customers",NULL}'::text[])[1:pg_temp.dice(n, 3, 5)],
       decode(string_agg(md5(n || '.' || part), '' ORDER BY part), 'hex'),
       int4range(6 + pg_temp.dice(n, 4, 6), 14 + pg_temp.dice(n, 4, 6))
FROM generate_series(1, 120) n, generate_series(1, 180) part
GROUP BY n ORDER BY n;

INSERT INTO shop.tills SELECT s, t, 1000 FROM generate_series(1, 12) s, generate_series(1, 3) t;
SET CONSTRAINTS ALL IMMEDIATE;

INSERT INTO shop.genres (name)
SELECT unnest('{Action,Animation,Comedy,Crime,Documentary,Drama,Family,Fantasy,History,Horror,Music,Mystery,Romance,Western}'::text[]);

-- Half of the synopses are long enough to be stored apart.
INSERT INTO shop.films (title, year, minutes, rating, languages, details, price, synopsis, poster, updated_at)
SELECT pg_temp.pick(n, 1, '{"The ","A ","","","Last ","Señor "}') ||
           pg_temp.pick(n, 2, '{Silent,Broken,Golden,Hidden,Second,Burning,Distant,Paper,Winter,Electric}') || ' ' ||
           pg_temp.pick(n, 3, '{River,Station,Garden,Letter,Engine,Mirror,Harbour,Orchard,Signal,Staircase,Müller}') ||
           CASE WHEN n % 7 = 0 THEN ' ' || (2 + n % 4) ELSE '' END,
       1950 + pg_temp.dice(n, 4, 75), nullif(60 + pg_temp.dice(n, 5, 120), 100),
       pg_temp.pick(n, 6, '{all,from 6,from 12,from 16,adult}')::shop.rating,
       ('{en,fr,de,pl,ja}'::char(2)[])[1:1 + pg_temp.dice(n, 7, 5)],
       jsonb_build_object('director', pg_temp.pick(n, 8, '{N. Ito,B. Okafor,L. Šarić,"D. O''Hara"}'),
           'score', pg_temp.dice(n, 9, 100) / 10.0, 'formats', '["disc", "tape"]'::jsonb),
       1.5 + pg_temp.dice(n, 10, 12) * 0.25,
       (SELECT string_agg(md5(n || ':' || part), CASE part % 9 WHEN 0 THEN E'.\n' ELSE ' ' END ORDER BY part)
        FROM generate_series(1, CASE WHEN n % 2 = 0 THEN 100 + pg_temp.dice(n, 11, 200) ELSE 5 END) part),
       decode(md5(n::text) || '00ff5c27', 'hex'), timestamptz '2025-01-01 00:00+00' + n * interval '1 minute'
FROM generate_series(1, 2000) n ORDER BY n;

INSERT INTO shop.film_genres
SELECT n, 1 + (pg_temp.dice(n, 1, 14) + k * 5) % 14 FROM generate_series(1, 2000) n, generate_series(0, 1) k;

INSERT INTO shop."Price List"
SELECT n, date '2025-01-01' + k * 120, 1.5 + pg_temp.dice(n + k, 10, 12) * 0.25, k
FROM generate_series(1, 2000) n, generate_series(0, 2) k;

-- Names that a careless text format would break
INSERT INTO shop.customers (store_id, name, email, home, phones, preferences, credit, active, joined, updated_at)
SELECT 1 + n % 12,
       pg_temp.pick(n, 1, '{Alma,Björn,Chloé,Dmitri,Eun-ji,Fatou,Gergő,美咲,İpek,José,Ólafur,Zofia}') || ' ' ||
           pg_temp.pick(n, 2, E'{O''Neil,"Smith\tJones","van der \\\\ Berg",Nowak,Öztürk,"Lee, Jr.",Silva,"\\"Quote\\""}'),
       'Customer.' || n || '@mail.example',
       CASE WHEN n % 20 > 0 THEN
           ROW(n % 300 || ' Mill Lane', lpad((n * 37 % 99999)::text, 5, '0'), pg_temp.pick(n, 3, '{Aarau,Jena,Łódź,NULL}'))::shop.address END,
       CASE WHEN n % 3 = 0 THEN ARRAY['+00 555 ' || n, NULL] WHEN n % 3 = 1 THEN '{}' END,
       jsonb_build_object('news', n % 2 = 0, 'genres', to_jsonb(ARRAY[n % 14, n % 5])),
       pg_temp.dice(n, 4, 10000) / 100.0, n % 11 > 0, date '2015-01-01' + pg_temp.dice(n, 5, 3600),
       timestamptz '2025-01-01 00:00+00' + n * interval '17 seconds'
FROM generate_series(1, 20000) n ORDER BY n;

INSERT INTO shop.cards SELECT lpad((n * 7919)::text, 12, '0'), n, pg_temp.dice(n, 1, 500)
FROM generate_series(1, 20000, 2) n;

INSERT INTO shop.vouchers
SELECT upper(left(md5(n::text), 10)), n * 9, 5 + n % 4 * 5, daterange(date '2026-01-01' + n % 200, CASE WHEN n % 5 > 0 THEN date '2028-01-01' END)
FROM generate_series(1, 2000) n;

INSERT INTO shop.voucher_uses
SELECT upper(left(md5(n::text), 10)), k, timestamptz '2026-03-01 12:00+00' + n * k * interval '1 minute'
FROM generate_series(1, 2000, 3) n, generate_series(1, 2) k;

-- 7 or 8 copies of each film in three stores; the 3,000 newest rentals are still out
INSERT INTO shop.inventory (film_id, store_id, copy_no, state, condition)
SELECT 1 + n % 2000, 1 + (n % 2000 + n / 6000) % 12, 1 + n / 2000 % 3, CASE WHEN (n - 1 + 15000 - 97000 % 15000) % 15000 < 3000 THEN 'rented'
       WHEN n % 500 = 0 THEN 'lost' ELSE 'shelf' END::shop.copy_state, 1 - pg_temp.dice(n, 1, 100) / 128.0
FROM generate_series(1, 15000) n ORDER BY n;

INSERT INTO shop.stock
SELECT film_id, store_id, count(*), count(*) FILTER (WHERE state = 'shelf') FROM shop.inventory GROUP BY 1, 2;

INSERT INTO shop.rentals (inventory_id, customer_id, staff_id, store_id, till_no, rented_at, due, returned_at)
SELECT 1 + (n - 1) % 15000, 1 + pg_temp.dice(n, 1, 20000), nullif(pg_temp.dice(n, 2, 121), 0),
       1 + n % 12, 1 + n % 3, at, (at AT TIME ZONE 'UTC')::date + 7,
       CASE WHEN n <= 97000 THEN at + (1 + pg_temp.dice(n, 3, 240)) * interval '1 hour 7 seconds' END
FROM generate_series(1, 100000) n, LATERAL (SELECT timestamptz '2025-01-02 08:00+00' + n * interval '9 minutes' AS at) t
ORDER BY n;

INSERT INTO shop.reservations (customer_id, copies, period, cancelled)
SELECT 1 + n * 6, int8range(1 + n % 500 * 5, 6 + n % 500 * 5 - n % 3), tstzrange(day, day + interval '3 days'), n % 10 = 0
FROM generate_series(1, 3000) n, LATERAL (SELECT timestamptz '2027-01-01 10:00+00' + n / 500 * interval '4 days' AS day) t
ORDER BY n;

-- Everyone paid on return, some again for being late, and some in advance, before the first partition
INSERT INTO shop.payments (rental_id, customer_id, paid_at, amount, method)
SELECT id, customer_id, returned_at, 1.5 + pg_temp.dice(id, 1, 12) * 0.25, pg_temp.pick(id, 2, '{cash,card,card,voucher}')
FROM shop.rentals WHERE returned_at IS NOT NULL ORDER BY id;
INSERT INTO shop.payments (rental_id, customer_id, paid_at, amount)
SELECT id, customer_id, returned_at + interval '1 minute', shop.late_fee(id)
FROM shop.rentals WHERE returned_at::date > due ORDER BY id;
INSERT INTO shop.payments (rental_id, customer_id, paid_at, amount, method)
SELECT id, customer_id, timestamptz '2024-12-01 09:00+00' + id * interval '5 minutes', 10, 'card'
FROM shop.rentals WHERE id <= 4000 ORDER BY id;

-- One in fifty events is there twice, in every column.
INSERT INTO log.events
SELECT timestamptz '2026-06-01 00:00+00' + n * interval '3 minutes', 1 + n % 99,
       pg_temp.pick(n, 1, '{login,search,rent,return}'), nullif(1 + pg_temp.dice(n, 2, 20000), 7),
       CASE WHEN n % 4 > 0 THEN jsonb_build_object('n', n, 'text', E'tab\t, newline\n, "quotes" and \\') END
FROM generate_series(1, 50000) n, generate_series(0, (n % 50 = 0)::int) twice;

INSERT INTO log.changes (relation, op, before, after, at, by)
SELECT 'shop.films', 'U', jsonb_build_object('id', n % 2000, 'price', 2.5), jsonb_build_object('id', n % 2000, 'price', 2.75),
       timestamptz '2026-01-01 00:00+00' + n * interval '1 hour', 'nobody'
FROM generate_series(1, 5000) n;

SET CONSTRAINTS ALL DEFERRED;
ALTER TABLE shop.films ENABLE TRIGGER audit;
ALTER TABLE shop.customers ENABLE TRIGGER audit;
ALTER TABLE shop.inventory ENABLE TRIGGER stock;
REFRESH MATERIALIZED VIEW shop.revenue;
ANALYZE;
