-- Who may enter the cluster that the masking is tested on, and its two databases. Every password and token is raw:
-- none may be found in a masked copy. Run in database postgres.
\set ON_ERROR_STOP on
set client_min_messages = warning;
-- A server that is set to md5 would store another verifier than the tests expect.
set password_encryption = 'scram-sha-256';

-- Owns the databases and nearly everything in them; nobody logs in as it.
create role clinic_owner nologin;
-- Every attribute that a role can have, the other way round than by default.
create role role_every_attribute superuser createdb createrole replication bypassrls noinherit login
    password 'raw-password-of-every-attribute';
create role role_connection_limit login connection limit 7 password 'raw-password-of-connection-limit';
create role role_valid_until login valid until '2020-02-02 02:02:02+00'
    -- A verifier is as secret as its password: it can be attacked offline. SCRAM's is stored as it is given.
    password 'SCRAM-SHA-256$4096:Y29uZm9ybWFuY2Utc2FsdA==$vgXbEokfcjak3OyIshYk7B+BSJqmwYnRH5di3WPms4Y=:vs/iXvoneGIHcElauMtT6bVPNS5kgYakG8HN+MbAjRo=';
create role clinic_md5 login password 'md5f7f967733289737fbf46815b480df0dd';
create role clinic_app login password 'raw-password-of-clinic-app';
create role clinic_lead login password 'raw-password-of-clinic-lead';
create role clinic_reader nologin;
create role clinic_auditor nologin noinherit;
-- Quoted, with a space, a capital and a letter outside ASCII.
create role "Nachtwache Süd" login password 'raw-password-of-nachtwache';

-- Memberships: plain, with the admin option, over two levels, and granted by somebody else than the superuser.
grant clinic_reader to clinic_app;
grant clinic_reader to clinic_lead with admin option;
grant clinic_auditor to clinic_lead;
grant clinic_lead to role_connection_limit;
grant clinic_reader to "Nachtwache Süd" granted by clinic_lead;
grant pg_read_all_stats to clinic_auditor;

comment on role clinic_app is 'RawLiteral Comment of role: call Rolanda';

create database clinic owner clinic_owner template template0 encoding 'UTF8' lc_collate 'C.UTF-8' lc_ctype 'C.UTF-8';
-- Of another encoding than the cluster: shows that every database comes along, each in its own.
create database ledger owner clinic_owner template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'
    connection limit 20;
revoke connect on database ledger from public;
grant connect, temporary on database ledger to clinic_app;

-- Settings: Postgres's own may come along, of those with a dot only what `keep_settings` names.
alter role clinic_app set statement_timeout = '5min';
alter role clinic_app set search_path = public, shape, "Odd Names";
alter role clinic_app set app.api_token = 'raw-token-of-role-clinic-app';
alter role clinic_app set app.tenant = 'north';
alter role clinic_app in database clinic set work_mem = '8MB';
alter role clinic_app in database clinic set app.api_token = 'raw-token-of-role-in-clinic';
alter role clinic_app in database ledger set app.api_token = 'raw-token-of-role-in-ledger';
alter role all set app.fleet_token = 'raw-token-of-all-roles';
