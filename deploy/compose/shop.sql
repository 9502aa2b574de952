-- The shop: its tables, its login role and the relay's. Run by the postgres image when it makes its database.

CREATE TABLE users (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name  text NOT NULL
);

CREATE TABLE orders (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id  bigint NOT NULL REFERENCES users,
    total    numeric(10, 2) NOT NULL CHECK (total > 0)
);

-- psql takes the passwords from the mounted secrets, so that they stand in one place each. The server keeps a hash.
\set relay_password `sed -n 's/^password=//p' /run/secrets/relay-dsn`
\set shop_password `sed -n 's/^password=//p' /run/secrets/shop-dsn`

CREATE ROLE cdc_outbox_relay LOGIN PASSWORD :'relay_password';
CREATE ROLE cdc_outbox_writer NOLOGIN;
CREATE ROLE shop LOGIN PASSWORD :'shop_password' IN ROLE cdc_outbox_writer;
GRANT SELECT, INSERT ON users, orders TO shop;
