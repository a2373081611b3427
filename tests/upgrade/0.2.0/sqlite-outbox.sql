BEGIN TRANSACTION;
CREATE TABLE "django_migrations" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "app" varchar(255) NOT NULL, "name" varchar(255) NOT NULL, "applied" datetime NOT NULL);
INSERT INTO "django_migrations" VALUES(1,'djjp_outbox','0001_initial','2026-11-30 00:19:50.415373');
CREATE TABLE "djjp_outbox" ("id" char(32) NOT NULL PRIMARY KEY, "job" text NOT NULL, "created_at" datetime NOT NULL, "cancelled" bool DEFAULT 0 NOT NULL, "problem" text NULL);
INSERT INTO "djjp_outbox" VALUES('01a229d27e10762a9f878cc3bc583447','{"id":"01a229d27e10762a9f878cc3bc583447","name":"upgrade.add","queue":"default","priority":0,"state":"ready","run_after":null,"created_at":1795997990.4163806,"arguments":"{\"args\":[500,5],\"kwargs\":{}}","on_crash":"retry","flags":4096,"pipeline":null,"waits_for":0,"unique_key":null,"limit_key":null,"limit_max":null,"limit_per":null,"expires_at":null,"options":"{\"tags\":[\"tenant-1\"]}"}','2026-11-30 00:19:50.416381',0,NULL);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('django_migrations',1);
COMMIT;
