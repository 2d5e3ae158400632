-- The oldest events go: of rows that are equal in every column, maybe only one. The newest changes.
BEGIN;
DELETE FROM log.events
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM log.events ORDER BY at LIMIT 14 FOR UPDATE SKIP LOCKED));
UPDATE log.events SET kind = kind || '!'
    WHERE ctid = (SELECT ctid FROM log.events ORDER BY at DESC LIMIT 1 FOR UPDATE SKIP LOCKED);
COMMIT;
