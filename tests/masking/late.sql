-- What an import makes after the rows, of every kind, in a database of the shop; with code that objects to whoever comes later than its trigger.
create schema late authorization app;
create function late.refuse() returns trigger language plpgsql as $$ begin raise exception 'nobody may'; end $$;
create function late.no_ddl() returns event_trigger language plpgsql as $$ begin raise exception 'no statement of this kind'; end $$;

-- Keys and indexes of partitions, which are made one by one and then attached.
create table late.visits (id bigint, day date, who text, seen text default 'unseen', note text, primary key (id, day)) partition by range (day);
create table late.visits_1 partition of late.visits for values from ('2024-01-01') to ('2025-01-01');
create table late.visits_2 partition of late.visits for values from ('2025-01-01') to ('2026-01-01');
alter table late.visits_2 alter seen set storage external;
insert into late.visits
select n, date '2024-01-01' + n % 700, 'visitor ' || n, 'seen ' || n, repeat('note ', n % 9) from generate_series(1, 3000) n;
create index visits_by_day on late.visits (day);
create index visits_by_who on late.visits_2 (lower(who)) where note <> '';
alter table late.visits_1 cluster on visits_1_pkey;
-- The database's first key by name, with a comment.
create schema early;
create table early.accounts (id int, kind int, name text, constraint accounts_by_id primary key (id, kind)) partition by list (kind);
create table early.accounts_1 partition of early.accounts for values in (1);
create table early.accounts_2 partition of early.accounts for values in (2);
insert into early.accounts select n, 1 + n % 2, 'account ' || n from generate_series(1, 100) n;
comment on constraint accounts_by_id on early.accounts is 'first of all';
create rule keep as on delete to late.visits do instead nothing;

create table late.comments (
    id int primary key, visit bigint, day date, text text, about int references late.comments,
    foreign key (visit, day) references late.visits,
    exclude using btree (text with =)
);
insert into late.comments
select n, n, date '2024-01-01' + n % 700, 'comment ' || n, nullif(n - 1, 0) from generate_series(1, 200) n;
alter table late.comments add constraint is_short check (length(text) < 40) not valid;
alter table late.comments replica identity using index comments_pkey;
alter table late.comments enable row level security;
create policy of_app on late.comments to app using (id % 2 = 0);

-- Partitions that a masked key decides over: their rows are added to those of others.
create table late.letters (recipient text, body text) partition by hash (recipient);
create table late.letters_0 partition of late.letters for values with (modulus 3, remainder 0);
create table late.letters_1 partition of late.letters for values with (modulus 3, remainder 1);
create table late.letters_2 partition of late.letters for values with (modulus 3, remainder 2);
insert into late.letters select 'recipient ' || n, 'letter ' || n from generate_series(1, 300) n;

create statistics late.days_and_notes on id, day from late.comments;
alter statistics late.days_and_notes owner to app;
-- A view that depends on a key, which comes after it, and one on that.
create view late.by_id as select c.id, c.text, count(*) from late.comments c join late.visits v on v.id = c.visit group by c.id;
create view late.over_it as select * from late.by_id;
grant select on late.by_id, late.over_it to app;
create materialized view late.days as select c.id, c.text, count(*) as count from late.comments c group by c.id;
alter materialized view late.days owner to app;
grant select on late.comments to app;
create unique index days_by_id on late.days (id);
comment on index late.days_by_id is 'of days';

create trigger refuse before insert or update or delete or truncate on late.comments
    for each statement execute function late.refuse();
create trigger refuse_rows before insert on late.visits for each row execute function late.refuse();
alter table late.visits_1 disable trigger refuse_rows;
comment on trigger refuse on late.comments is 'refuses';

select lo_from_bytea(4242, decode(repeat(md5('large'), 100000), 'hex'));
grant select on large object 4242 to app;

-- Settings that act on every session, and a limit.
alter role all set work_mem = '5MB';
alter database shop set lock_timeout = '3s';
alter role app in database shop set statement_timeout = '7s';
alter database shop connection limit 55;
alter role postgres set default_transaction_read_only = on;

create event trigger no_ddl on ddl_command_start execute function late.no_ddl();
