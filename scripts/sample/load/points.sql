-- Many rows at once, in a table that has no primary key.
\set customer random(1, 19900)
UPDATE shop.cards SET points = points + 1 WHERE customer_id BETWEEN :customer AND :customer + 60;
