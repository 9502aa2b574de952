// Registers a customer and emits the event, in one transaction: DATABASE_URL=… go run . 42 Ada
package main

import (
	"context"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
)

type registered struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func register(ctx context.Context, db *pgx.Conn, id, name string) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT outbox_emit($1, $2, $3, $4)",
			"customer", id, "CustomerRegistered", registered{id, name}); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO customers (id, name) VALUES ($1, $2)", id, name)
		return err // not nil: everything is rolled back, the event too
	})
}

func main() {
	ctx := context.Background()
	db, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close(ctx)
	if err := register(ctx, db, os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}
