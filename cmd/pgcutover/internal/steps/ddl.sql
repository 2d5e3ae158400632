-- What pgcutover ddl install makes on the source. Everything that one of these functions calls is named with its schema, or in pg_catalog, which is searched
-- first: the event triggers' functions run with the rights, and the search path, of whoever executes a statement.
DROP EVENT TRIGGER IF EXISTS pgsluice_dropped;
DROP EVENT TRIGGER IF EXISTS pgsluice_record;
CREATE SCHEMA IF NOT EXISTS pgsluice;
GRANT USAGE ON SCHEMA pgsluice TO PUBLIC;

-- publish puts a table that was created, or that has got a key, into the publications where it belongs: those that have a slot of their name. It does so with its
-- owner's rights, who owns the publications.
CREATE OR REPLACE FUNCTION pgsluice.publish(relation pg_catalog.oid) RETURNS pg_catalog.void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	name text;
	keyed bool;
	p record;
BEGIN
	SELECT format('%I.%I', n.nspname, c.relname), c.relreplident = 'f' OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid
		AND (i.indisprimary AND c.relreplident = 'd' OR i.indisreplident AND c.relreplident = 'i'))
	INTO name, keyed FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.oid = relation AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice');
	IF NOT FOUND THEN
		RETURN;
	END IF;
	FOR p IN
		SELECT main.pubname AS main, main.pubname || '_insert_only' AS inserts,
			EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = main.oid AND r.prrelid IN (SELECT pg_partition_ancestors(relation) UNION SELECT relation)) AS whole,
			EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = inserts.oid AND r.prrelid IN (SELECT pg_partition_ancestors(relation) UNION SELECT relation)) AS partly,
			EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = inserts.oid AND r.prrelid = relation) AS listed
		FROM pg_publication main JOIN pg_replication_slots s ON s.slot_name = main.pubname AND s.database = current_database()
		LEFT JOIN pg_publication inserts ON inserts.pubname = main.pubname || '_insert_only' WHERE NOT main.puballtables
	LOOP
		IF keyed AND NOT p.whole THEN
			EXECUTE format('ALTER PUBLICATION %I ADD TABLE %s', p.main, name);
			IF p.listed THEN
				EXECUTE format('ALTER PUBLICATION %I DROP TABLE %s', p.inserts, name);
			END IF;
		ELSIF NOT keyed AND NOT p.whole AND NOT p.partly THEN
			EXECUTE format('ALTER PUBLICATION %I ADD TABLE %s', p.inserts, name);
		END IF;
	END LOOP;
END
$function$;

-- dropped notes whether a statement has dropped anything that a target has: only here can that be asked.
CREATE OR REPLACE FUNCTION pgsluice.dropped() RETURNS event_trigger LANGUAGE plpgsql AS $function$
BEGIN
	IF tg_tag NOT LIKE 'DROP %' OR tg_tag IN ('DROP PUBLICATION', 'DROP SUBSCRIPTION') THEN
		RETURN;
	END IF;
	PERFORM pg_catalog.set_config('pgsluice.dropped', pg_catalog.bool_or(d.original AND NOT d.is_temporary AND d.schema_name IS DISTINCT FROM 'pgsluice'
		AND NOT (d.object_type = 'schema' AND d.object_name = 'pgsluice'))::pg_catalog.text, true)
	FROM pg_catalog.pg_event_trigger_dropped_objects() d;
END
$function$;

-- record writes the statement that has just been executed into the WAL, as a message of its transaction. Should it fail to, the statement is executed all the same: pgapply
-- will stop before the first row that it cannot place.
CREATE OR REPLACE FUNCTION pgsluice.record() RETURNS event_trigger LANGUAGE plpgsql AS $function$
DECLARE
	query pg_catalog.text := pg_catalog.current_query();
	context pg_catalog.text;
	level pg_catalog.text := 'outer';
	key pg_catalog.text;
	nth pg_catalog.int4;
	wanted pg_catalog.bool;
	scripted pg_catalog.bool;
	relation pg_catalog.oid;
BEGIN
	IF tg_tag ~ '^(CREATE|ALTER|DROP) (PUBLICATION|SUBSCRIPTION)$' THEN
		RETURN;
	ELSIF tg_tag LIKE 'DROP %' THEN
		IF query ~* '\mextension\M' AND query !~* '\mdrop\M' THEN
			RETURN; -- by the extension's own script
		END IF;
		wanted := pg_catalog.current_setting('pgsluice.dropped', true) = 'true';
		PERFORM pg_catalog.set_config('pgsluice.dropped', '', true);
	ELSE
		SELECT pg_catalog.bool_and(c.in_extension), pg_catalog.bool_or(NOT c.in_extension AND coalesce(c.schema_name, '') NOT IN ('pg_temp', 'pgsluice')
			AND NOT (c.object_type = 'schema' AND c.object_identity = 'pgsluice'))
		INTO scripted, wanted FROM pg_catalog.pg_event_trigger_ddl_commands() c;
		IF scripted THEN
			RETURN;
		END IF;
	END IF;
	-- Our own line comes first. If there are more, the statement is a function's.
	GET DIAGNOSTICS context = PG_CONTEXT;
	IF context LIKE E'%\n%' THEN
		query := pg_catalog.substring(context, E'^[^\n]*\nSQL statement "(.*?)"\nPL/pgSQL function ');
		level := 'inner';
	END IF;
	-- Of a query of several statements we are not told which one this is.
	key := pg_catalog.format('%s %s', pg_catalog.date_part('epoch', pg_catalog.statement_timestamp()), pg_catalog.md5(query));
	nth := 1;
	IF pg_catalog.split_part(pg_catalog.current_setting('pgsluice.' || level, true), '/', 1) = key THEN
		nth := pg_catalog.split_part(pg_catalog.current_setting('pgsluice.' || level), '/', 2)::pg_catalog.int4 + 1;
	END IF;
	PERFORM pg_catalog.set_config('pgsluice.' || level, pg_catalog.format('%s/%s', key, nth), true);

	IF wanted AND tg_tag NOT IN ('REFRESH MATERIALIZED VIEW', 'REINDEX') THEN
		PERFORM pg_catalog.pg_logical_emit_message(true, 'pgsluice.ddl', pg_catalog.convert_to(pg_catalog.json_build_object('query', coalesce(query, ''), 'nth', nth, 'tag', tg_tag,
			'search_path', (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(s), ', ') FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) s WHERE s NOT LIKE 'pg\_temp\_%'),
			'role', current_user)::pg_catalog.text, 'UTF8'));
		-- The server orders a message by where it ends, and a change by where it begins. Without something between the two they are in one place, and the change may come first if
		-- they are of different subtransactions.
		PERFORM pg_catalog.pg_logical_emit_message(true, 'pgsluice', '');
	END IF;
	IF tg_tag IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE SCHEMA') THEN
		BEGIN
			FOR relation IN SELECT DISTINCT c.objid FROM pg_catalog.pg_event_trigger_ddl_commands() c WHERE c.object_type = 'table' AND NOT c.in_extension LOOP
				PERFORM pgsluice.publish(relation);
			END LOOP;
		EXCEPTION WHEN OTHERS THEN
			RAISE WARNING 'pgsluice could not publish the rows of this table: %', sqlerrm USING HINT = 'As the owner of the publication: ALTER PUBLICATION … ADD TABLE …';
		END;
	END IF;
EXCEPTION WHEN OTHERS THEN
	RAISE WARNING 'pgsluice could not record this change of the schema for the target: %', sqlerrm USING HINT = 'Make the same change on the target by hand.';
END
$function$;

CREATE EVENT TRIGGER pgsluice_dropped ON sql_drop EXECUTE FUNCTION pgsluice.dropped();
CREATE EVENT TRIGGER pgsluice_record ON ddl_command_end EXECUTE FUNCTION pgsluice.record();
