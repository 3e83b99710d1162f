-- The cluster's second database, in LATIN1: what the clinic earned. Run in database ledger.
\set ON_ERROR_STOP on
-- This file is UTF-8; the server converts.
set client_encoding = 'UTF8';
set client_min_messages = warning;
set role clinic_owner;

create table payer (
    id int generated always as identity primary key,
    full_name text not null,
    contact_email text not null unique,
    iban text,
    remark text
);
-- Letters that take one byte in LATIN1 and two in UTF-8.
insert into payer (full_name, contact_email, iban, remark)
select 'Rawländer Müßig ' || to_char(n, 'fm000'), 'raw.payer.' || to_char(n, 'fm000') || '@ledger.test',
       -- The check digits of ISO 7064 (mod 97-10), so that the numbers pass for real.
       'DE' || to_char(98 - ((370400440532000000 + n) || '131400')::numeric % 97, 'fm00') || 370400440532000000 + n,
       (array['zahlt früh', 'señor', '', null, 'à côté', E'tab\tæ\\'])[1 + n % 6]
from generate_series(1, 40) as n;

-- A key that is text outside ASCII, and one that refers to it.
create table cost_centre (
    code varchar(20) primary key,
    payer_id int references payer on delete cascade,
    booked numeric(12, 2) not null default 0
);
insert into cost_centre values ('Küche', 1, 10.50), ('Wäsche', 2, 0), ('Öl', 3, -7.25), ('Façade', null, 1);

create index payer_name_upper on payer (upper(full_name));
create view payer_label as select id, full_name || ' §' || id as label from payer;
grant select on payer_label to clinic_reader;
comment on table payer is 'RawLiteral Comment of ledger: ask Frau Lösch';

reset role;
alter database ledger set app.api_token = 'raw-token-of-database-ledger';
