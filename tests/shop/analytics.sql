-- The cluster's second database: what visitors did. Run by psql with -v customers=N.
\set ON_ERROR_STOP on
-- The application owns its database and everything in it.
set role app;
set client_min_messages = warning;
set synchronous_commit = off;

create table events (
    id bigint primary key,
    visitor bigint not null,
    kind text not null,
    payload jsonb not null,
    at timestamptz not null
);
insert into events
select i, i % :customers, (array['view', 'search', 'add', 'buy'])[1 + i % 4],
       jsonb_build_object('page', '/product/' || i % 977, 'ms', i % 1301), timestamptz '2025-01-01 00:00+00' + i * interval '11 seconds'
from generate_series(1, 2 * :customers) as i;
create index on events (visitor);

reset role;
-- As a database that has been in use for a while: without it, the first to read a row writes its hint bits.
vacuum (freeze, analyze);
