-- The database of the web API. `cdc-outbox sql install` and `sql roles` add the outbox, and the roles.
CREATE TABLE users (
    id     uuid PRIMARY KEY,
    email  text NOT NULL UNIQUE,
    name   text NOT NULL
);
GRANT SELECT, INSERT ON users TO web;
GRANT cdc_outbox_writer TO web;  -- may emit events, and nothing else with the outbox
