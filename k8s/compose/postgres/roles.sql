-- Run once, by the official image, when the data folder is made: the roles that each process
-- connects as, as bin/up makes them (embedded/postgres.py). What each may do is for
-- `manage.py grant_roles` to say, after the migrations.
\set owner_password `cat /run/secrets/owner_password`
\set app_password `cat /run/secrets/app_password`
\set gateway_password `cat /run/secrets/gateway_password`
\set keybroker_password `cat /run/secrets/keybroker_password`

CREATE ROLE strongroom_owner LOGIN NOSUPERUSER NOCREATEROLE NOBYPASSRLS PASSWORD :'owner_password';
CREATE ROLE strongroom_app LOGIN NOSUPERUSER NOCREATEROLE NOBYPASSRLS PASSWORD :'app_password';
CREATE ROLE strongroom_gateway LOGIN NOSUPERUSER NOCREATEROLE NOBYPASSRLS PASSWORD :'gateway_password';
CREATE ROLE strongroom_keybroker LOGIN NOSUPERUSER NOCREATEROLE NOBYPASSRLS PASSWORD :'keybroker_password';
CREATE DATABASE strongroom OWNER strongroom_owner;

\connect strongroom
-- Only a superuser may add it; the migrations add the others themselves.
CREATE EXTENSION vector;
