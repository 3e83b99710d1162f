-- Who may enter the cluster. The passwords are for tests and the demo.
\set ON_ERROR_STOP on
create role app login password 'app-pw';
create role replicator login replication password 'replicator-pw';
create role plain login password 'plain-pw';
-- For [[project.user]]: a role that has no password.
create role tester login in role app;
create database shop owner app;
create database analytics owner app;
