-- A film gets a new synopsis: long, short or none. Twice in one transaction.
\set film random(1, 2000)
\set parts random(0, 300)
BEGIN;
UPDATE shop.films SET synopsis = NULL WHERE id = :film;
UPDATE shop.films
    SET synopsis = (SELECT string_agg(md5(part::text || random()), ' ') FROM generate_series(1, :parts) part)
    WHERE id = :film;
COMMIT;
