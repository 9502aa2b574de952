#!/bin/bash
# A database and a role for each service. Run by the postgres image when it makes its cluster.
set -euo pipefail

psql -v ON_ERROR_STOP=1 --dbname postgres -c 'CREATE ROLE cdc_outbox_writer NOLOGIN' -c 'CREATE ROLE cdc_outbox_relay LOGIN'
for name in web mailer profiles rewards; do
  createuser "$name"
  createdb "$name"
done
psql -v ON_ERROR_STOP=1 --dbname web --file "${SQL:-/sql}/web.sql"
for name in mailer profiles rewards; do
  psql -v ON_ERROR_STOP=1 --dbname "$name" -c "ALTER DATABASE $name OWNER TO $name" \
    -c "SET ROLE $name" --file "${SQL:-/sql}/$name.sql"
done
