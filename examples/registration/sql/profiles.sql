-- The database of the profiles. `cdc-outbox sql consumer` adds the inbox.
CREATE TABLE profiles (
    user_id       uuid PRIMARY KEY,
    display_name  text NOT NULL
);
