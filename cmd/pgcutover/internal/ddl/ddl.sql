-- The objects that pgcutover ddl install creates on the source. The installing role owns them all,
-- and no other role has any privilege on them: an event trigger's function needs none for the role
-- that executes a statement.
SET LOCAL search_path = pg_catalog, pg_temp;
DROP EVENT TRIGGER IF EXISTS pgsluice_start;
DROP EVENT TRIGGER IF EXISTS pgsluice_dropped;
DROP EVENT TRIGGER IF EXISTS pgsluice_note;
DROP EVENT TRIGGER IF EXISTS pgsluice_record;
DROP EVENT TRIGGER IF EXISTS pgsluice_sort;
CREATE SCHEMA IF NOT EXISTS pgsluice;
REVOKE ALL ON SCHEMA pgsluice FROM PUBLIC;
-- Drop the functions instead of replacing them: CREATE OR REPLACE would keep their owners.
DROP FUNCTION IF EXISTS pgsluice.start(), pgsluice.dropped(), pgsluice.note(), pgsluice.record(), pgsluice.sort(), pgsluice.publish(oid);

-- A transaction inserts a row with its statement and deletes the row again, so the row exists in
-- the WAL only. The primary key makes the delete legal in every publication.
CREATE TABLE IF NOT EXISTS pgsluice.ddl (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, query text, statement text NOT NULL);
DO $do$
DECLARE
	r record;
BEGIN
	-- Default privileges may have granted privileges on the table. The role pg_write_all_data has
	-- some without a grant.
	FOR r IN SELECT DISTINCT c.oid::regclass AS name, c.relkind, g.grantee FROM pg_class c, aclexplode(c.relacl) g
		WHERE c.oid IN (to_regclass('pgsluice.ddl'), to_regclass('pgsluice.ddl_id_seq')) AND g.grantee <> c.relowner LOOP
		EXECUTE format('REVOKE ALL ON %s %s FROM %s CASCADE', CASE r.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, r.name,
			CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.grantee)) END);
	END LOOP;
	ALTER TABLE pgsluice.ddl DROP CONSTRAINT IF EXISTS written_by_trigger;
	EXECUTE format('ALTER TABLE pgsluice.ddl ADD CONSTRAINT written_by_trigger CHECK (CURRENT_USER = %L)',
		(SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'pgsluice.ddl'::regclass));
END
$do$;

-- start clears the notes of an earlier statement, and notes whether the following statements are an
-- extension's script.
CREATE FUNCTION pgsluice.start() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM set_config('pgsluice.dropped', '', true);
	IF tg_tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
		PERFORM set_config('pgsluice.script', 'on', true);
	END IF;
END
$function$;

-- dropped notes the objects that a statement has dropped and a target has. Only an sql_drop trigger
-- can list them.
CREATE FUNCTION pgsluice.dropped() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF tg_tag LIKE 'DROP %' THEN
		PERFORM set_config('pgsluice.dropped', coalesce(json_agg(json_build_array(d.object_type, d.address_names, d.address_args))::text, ''), true)
		FROM pg_event_trigger_dropped_objects() d WHERE d.original AND NOT d.is_temporary AND d.schema_name IS DISTINCT FROM 'pgsluice'
			AND NOT (d.object_type = 'schema' AND d.object_name = 'pgsluice')
			AND d.object_type NOT IN ('publication', 'publication relation', 'publication namespace', 'subscription', 'event trigger');
	END IF;
EXCEPTION WHEN OTHERS THEN
	RAISE WARNING 'pgsluice could not see what this statement drops (SQLSTATE %)', sqlstate USING HINT = 'Make the same change on the target by hand.';
END
$function$;

-- note records what only the executing role can see: its name, search path and settings. It runs
-- with that role's privileges and search path, so it qualifies every function with its schema and
-- every operator with OPERATOR(). None of that role's code runs between note and record, because
-- record is next in the order of names.
CREATE FUNCTION pgsluice.note() RETURNS event_trigger LANGUAGE plpgsql AS $function$
BEGIN
	PERFORM pg_catalog.set_config('pgsluice.invoker', '', true);
	BEGIN
		PERFORM pg_catalog.set_config('pgsluice.invoker', pg_catalog.json_build_object('role', CURRENT_USER, 'path', pg_catalog.current_schemas(false),
			'fixed', NOT EXISTS (SELECT FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'standard_conforming_strings'
				AND s.source OPERATOR(pg_catalog.=) 'session'),
			'settings', (SELECT pg_catalog.json_object_agg(s.name, pg_catalog.current_setting(s.name, true)) FROM pg_catalog.unnest(ARRAY['standard_conforming_strings',
				'backslash_quote', 'array_nulls', 'transform_null_equals', 'DateStyle', 'IntervalStyle', 'TimeZone', 'xmloption', 'bytea_output', 'extra_float_digits',
				'default_toast_compression', 'default_tablespace', 'default_table_access_method']) s(name)))::pg_catalog.text, true);
	EXCEPTION WHEN OTHERS THEN
		RAISE WARNING 'pgsluice could not see who executes this statement (SQLSTATE %)', sqlstate USING HINT = 'Make the same change on the target by hand.';
	END;
END
$function$;

-- record writes the executed statement into the table, and so into the WAL. If that fails, the
-- statement still succeeds, and pgapply stops before the first row that it cannot place. The
-- warnings never quote a query, because a query may contain passwords.
CREATE FUNCTION pgsluice.record() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on SET transform_null_equals = off AS $function$
DECLARE
	invoker json;
	query text := current_query();
	context text;
	level text := 'outer';
	counted text;
	nth int8 := 1;
	ends int4;
	wanted bool;
	scripted bool;
	objects json;
	written int8;
	target record;
BEGIN
	-- Clear the note first, so that it is never used twice.
	counted := current_setting('pgsluice.invoker', true);
	PERFORM set_config('pgsluice.invoker', '', true);
	BEGIN
		invoker := nullif(counted, '')::json;
		IF tg_tag IN ('CREATE PUBLICATION', 'ALTER PUBLICATION') AND current_setting('pgsluice.carry', true) = 'on' THEN
			-- pgextract needs the table in its publication but does not own the table. Every owner
			-- of a publication may have the table: reading what a publication publishes requires
			-- REPLICATION, which can read everything anyway.
			FOR target IN SELECT DISTINCT p.pubname FROM pg_event_trigger_ddl_commands() c JOIN pg_publication p ON p.oid = c.objid
				WHERE c.object_type = 'publication' AND NOT p.puballtables AND pg_has_role((invoker->>'role')::name, p.pubowner, 'USAGE')
				AND NOT EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = 'pgsluice.ddl'::regclass)
			LOOP
				EXECUTE format('ALTER PUBLICATION %I ADD TABLE pgsluice.ddl', target.pubname);
			END LOOP;
		END IF;
		IF tg_tag ~ '^(CREATE|ALTER|DROP) (PUBLICATION|SUBSCRIPTION)$' OR tg_tag = 'REINDEX' THEN
			RETURN;
		END IF;
		IF tg_tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
			PERFORM set_config('pgsluice.script', '', true);
		ELSIF tg_tag LIKE 'DROP %' AND current_setting('pgsluice.script', true) = 'on' THEN
			RETURN;
		END IF;
		IF tg_tag LIKE 'DROP %' THEN
			objects := nullif(current_setting('pgsluice.dropped', true), '')::json;
			wanted := objects IS NOT NULL;
		ELSE
			SELECT bool_and(c.in_extension), bool_or(c.mine) INTO scripted, wanted FROM (SELECT in_extension, NOT in_extension
				AND coalesce(schema_name, '') NOT IN ('pg_temp', 'pgsluice') AND NOT (object_type = 'schema' AND object_identity = 'pgsluice')
				AND object_type NOT IN ('publication', 'publication relation', 'publication namespace', 'subscription', 'event trigger') AS mine
				FROM pg_event_trigger_ddl_commands()) c;
			IF scripted THEN
				RETURN;
			END IF;
			SELECT json_agg(json_build_array(o.type, o.object_names, o.object_args)) INTO objects FROM (SELECT DISTINCT a.type, a.object_names, a.object_args
				FROM pg_event_trigger_ddl_commands() c, pg_identify_object_as_address(c.classid, c.objid, c.objsubid) a
				WHERE c.objid <> 0 AND NOT c.in_extension AND coalesce(c.schema_name, '') NOT IN ('pg_temp', 'pgsluice') AND a.object_names IS NOT NULL) o;
		END IF;
		-- The first line is our own. More lines mean that a function executed the statement.
		GET DIAGNOSTICS context = PG_CONTEXT;
		IF strpos(context, E'\n') > 0 THEN
			level := 'inner';
			context := substr(context, strpos(context, E'\n') + 1);
			-- A name may look like the end of the text. Do not record a text that is uncertain.
			ends := strpos(context, E'"\nPL/pgSQL function ');
			query := CASE WHEN starts_with(context, 'SQL statement "') AND ends > 0 AND split_part(substr(context, ends + 2), E'\n', 1) ~ '^PL/pgSQL function .+ line [0-9]+ at [A-Za-z ]+$'
				AND strpos(coalesce(objects::text, ''), '\n') = 0 THEN substr(context, 16, ends - 16) END;
		END IF;
		-- The server does not say which statement of a multi-statement query this is, so count
		-- them. The count survives a commit within the query.
		counted := format('%s %s', date_part('epoch', statement_timestamp()), md5(query));
		IF split_part(current_setting('pgsluice.' || level, true), '/', 1) = counted THEN
			nth := split_part(current_setting('pgsluice.' || level), '/', 2)::int8 + 1;
		END IF;
		PERFORM set_config('pgsluice.' || level, format('%s/%s', counted, nth), false);
	EXCEPTION WHEN OTHERS THEN
		RAISE WARNING 'pgsluice could not record this change of the schema for the target (SQLSTATE %)', sqlstate USING HINT = 'Make the same change on the target by hand.';
		RETURN;
	END;
	IF wanted AND tg_tag <> 'REFRESH MATERIALIZED VIEW' THEN
		BEGIN
			IF invoker IS NULL THEN
				RAISE 'it is not known who executes it';
			END IF;
			INSERT INTO pgsluice.ddl (query, statement) VALUES (query, json_build_object('level', level, 'nth', nth, 'tag', tg_tag, 'role', invoker->'role',
				'path', invoker->'path', 'fixed', invoker->'fixed', 'settings', invoker->'settings', 'objects', objects)::text) RETURNING id INTO written;
			DELETE FROM pgsluice.ddl WHERE id = written;
		EXCEPTION WHEN OTHERS THEN
			RAISE WARNING 'pgsluice could not record this change of the schema for the target (SQLSTATE %)', sqlstate USING HINT = 'Make the same change on the target by hand.';
		END;
	END IF;
END
$function$;

-- sort puts tables that were created, or have gained or lost their key, into the right
-- publications: those with a slot of the same name. In a publication of all operations, a table
-- without a replica identity has its UPDATE and DELETE refused. So sort moves such a table to the
-- publication of inserts, and back once the table has a key again. The partitioned table above it
-- moves with it, and the other partitions are then published on their own. sort comes after record
-- in the order of names, because its own statements fire these triggers.
CREATE FUNCTION pgsluice.sort() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	tables oid[];
	target record;
	moves record;
BEGIN
	IF tg_tag IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE SCHEMA') THEN
		-- A detached partition is not among the command's objects, but its row in pg_class is new.
		tables := ARRAY(SELECT objid FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table' AND NOT in_extension
			UNION SELECT c.oid FROM pg_class c WHERE tg_tag = 'ALTER TABLE' AND c.relkind = 'r' AND NOT c.relispartition AND age(c.xmin) BETWEEN 0 AND age((txid_current() % (1::bigint << 32))::text::xid)
				AND EXISTS (SELECT FROM pg_event_trigger_ddl_commands() x JOIN pg_class p ON p.oid = x.objid WHERE x.object_type = 'table' AND p.relkind = 'p'));
	ELSIF tg_tag IN ('DROP INDEX', 'DROP TYPE', 'DROP DOMAIN', 'DROP EXTENSION', 'DROP SCHEMA', 'DROP FUNCTION', 'DROP OWNED') THEN
		tables := ARRAY(SELECT r.prrelid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_replication_slots s ON s.slot_name = p.pubname);
	END IF;
	IF coalesce(cardinality(tables), 0) = 0 THEN
		RETURN;
	END IF;
	FOR target IN SELECT main.oid AS main, main.pubname AS name, inserts.oid AS inserts, inserts.pubname AS second FROM pg_publication main
		JOIN pg_replication_slots s ON s.slot_name = main.pubname AND s.database = current_database()
		LEFT JOIN pg_publication inserts ON inserts.pubname = main.pubname || '_insert_only' WHERE NOT main.puballtables
	LOOP
		WITH candidate AS (SELECT c.oid, c.relkind, c.relreplident, format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
				WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice')),
			tops AS (SELECT DISTINCT coalesce(pg_partition_root(t)::oid, t) AS oid FROM unnest(tables) t),
			leaf AS (SELECT c.oid, c.name, CASE WHEN c.relreplident = 'f' THEN current_setting('server_version_num')::int < 180000
					OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped)
				ELSE EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident)
					AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indislive AND i.indpred IS NULL AND NOT EXISTS (SELECT FROM pg_attribute a
						WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))) END AS named
				FROM candidate c WHERE c.relkind = 'r' AND c.oid IN (SELECT oid FROM tops UNION SELECT p.relid FROM tops, pg_partition_tree(tops.oid) p)),
			-- A table and the tables that its changes are published through.
			chain AS (SELECT leaf.oid AS leaf, leaf.named, leaf.oid AS rel FROM leaf UNION SELECT leaf.oid, leaf.named, p.relid FROM leaf, pg_partition_ancestors(leaf.oid) p(relid)),
			full_ AS (SELECT prrelid AS rel FROM pg_publication_rel WHERE prpubid = target.main),
			less AS (SELECT prrelid AS rel FROM pg_publication_rel WHERE prpubid = target.inserts),
			leaves AS (SELECT DISTINCT chain.rel FROM chain JOIN full_ USING (rel) WHERE NOT chain.named AND target.inserts IS NOT NULL),
			top AS (SELECT c.oid, c.name, EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate AND NOT EXISTS (SELECT FROM pg_attribute a
					WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))) AS keyed
				FROM candidate c WHERE c.relkind = 'p' AND c.oid IN (SELECT oid FROM tops) AND c.oid NOT IN (SELECT rel FROM full_ UNION ALL SELECT rel FROM less)
				AND NOT EXISTS (SELECT FROM pg_partition_tree(c.oid) p JOIN (SELECT rel FROM full_ UNION SELECT rel FROM less) x ON x.rel = p.relid)),
			added AS (SELECT leaf.oid, leaf.name FROM leaf WHERE leaf.named AND NOT EXISTS (SELECT FROM chain JOIN full_ USING (rel) WHERE chain.leaf = leaf.oid AND chain.rel NOT IN (SELECT rel FROM leaves))
				AND NOT EXISTS (SELECT FROM chain JOIN top ON top.oid = chain.rel WHERE chain.leaf = leaf.oid AND top.keyed)
				UNION ALL SELECT top.oid, top.name FROM top WHERE top.keyed AND NOT EXISTS (SELECT FROM chain WHERE chain.rel = top.oid AND NOT chain.named)),
			-- Partitions that were published only through a table that leaves and that was in both
			-- publications. They join both in this transaction, which shows that there was no gap.
			joint AS (SELECT added.oid FROM added JOIN chain ON chain.leaf = added.oid JOIN leaves USING (rel) JOIN less USING (rel) WHERE rel <> added.oid)
		SELECT (SELECT string_agg('ONLY ' || c.name, ', ') FROM leaves JOIN candidate c ON c.oid = leaves.rel) AS leave,
			(SELECT string_agg('ONLY ' || added.name, ', ') FROM added) AS joins,
			(SELECT string_agg('ONLY ' || c.name, ', ') FROM candidate c WHERE target.inserts IS NOT NULL AND c.oid NOT IN (SELECT rel FROM less)
				AND (c.oid IN (SELECT oid FROM joint) OR NOT EXISTS (SELECT FROM pg_partition_ancestors(c.oid) p JOIN less ON less.rel = p))
				AND (c.oid IN (SELECT oid FROM joint) OR c.oid IN (SELECT rel FROM leaves) OR c.oid IN (SELECT leaf FROM chain GROUP BY leaf HAVING NOT bool_or(named) AND NOT bool_or(rel IN (SELECT rel FROM full_)) AND NOT bool_or(rel IN (SELECT oid FROM top)))
					OR c.oid IN (SELECT top.oid FROM top) AND c.oid NOT IN (SELECT oid FROM added))) AS inserts,
			(SELECT string_agg('ONLY ' || added.name, ', ') FROM added JOIN less ON less.rel = added.oid WHERE target.inserts IS NOT NULL) AS moves
		INTO moves;
		IF moves.leave IS NOT NULL THEN
			EXECUTE format('ALTER PUBLICATION %I DROP TABLE %s', target.name, moves.leave);
		END IF;
		IF moves.joins IS NOT NULL THEN
			EXECUTE format('ALTER PUBLICATION %I ADD TABLE %s', target.name, moves.joins);
		END IF;
		IF moves.inserts IS NOT NULL THEN
			EXECUTE format('ALTER PUBLICATION %I ADD TABLE %s', target.second, moves.inserts);
		END IF;
		IF moves.moves IS NOT NULL THEN
			EXECUTE format('ALTER PUBLICATION %I DROP TABLE %s', target.second, moves.moves);
		END IF;
	END LOOP;
EXCEPTION WHEN OTHERS THEN
	RAISE WARNING 'pgsluice could not publish the rows of this table (SQLSTATE %)', sqlstate USING HINT = 'Look at: pgcutover status. As the owner of the publication: ALTER PUBLICATION … ADD TABLE …, or DROP TABLE …';
END
$function$;

REVOKE ALL ON FUNCTION pgsluice.start(), pgsluice.dropped(), pgsluice.note(), pgsluice.record(), pgsluice.sort() FROM PUBLIC;
DO $do$ BEGIN
	-- Fixes the language of PG_CONTEXT, from which record reads a function's statement. Some
	-- administrators may not set lc_messages.
	ALTER FUNCTION pgsluice.record() SET lc_messages = 'C';
EXCEPTION WHEN insufficient_privilege THEN NULL;
END $do$;

CREATE EVENT TRIGGER pgsluice_start ON ddl_command_start EXECUTE FUNCTION pgsluice.start();
CREATE EVENT TRIGGER pgsluice_dropped ON sql_drop EXECUTE FUNCTION pgsluice.dropped();
CREATE EVENT TRIGGER pgsluice_note ON ddl_command_end EXECUTE FUNCTION pgsluice.note();
CREATE EVENT TRIGGER pgsluice_record ON ddl_command_end EXECUTE FUNCTION pgsluice.record();
CREATE EVENT TRIGGER pgsluice_sort ON ddl_command_end EXECUTE FUNCTION pgsluice.sort();
