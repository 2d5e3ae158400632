-- A film gets another price. Its synopsis, stored apart from the row, is not touched.
\set film random(1, 2000)
\set cents random(1, 16)
BEGIN;
UPDATE shop.films
    SET price = 1 + :cents * 0.25,
        details = jsonb_set(details, '{repriced}', to_jsonb(coalesce((details ->> 'repriced')::int, 0) + 1))
    WHERE id = :film;
INSERT INTO shop."Price List" AS old VALUES (:film, current_date, 1 + :cents * 0.25)
    ON CONFLICT ("Film", "Valid From") DO UPDATE
    SET "Price €" = excluded."Price €", "order" = old."order" + 1;
COMMIT;
