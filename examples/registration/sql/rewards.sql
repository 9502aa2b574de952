-- The database of the rewards. `cdc-outbox sql consumer` adds the inbox.
CREATE TABLE accounts (
    user_id  uuid PRIMARY KEY,
    points   int NOT NULL
);
