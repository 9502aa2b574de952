// Consume each event once: claim and effect in one transaction, then the offset.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// credit gives ten points to an account, once for each event.
func credit(ctx context.Context, db *pgx.Conn, record *kgo.Record) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var first bool
		err := tx.QueryRow(ctx, "SELECT inbox_claim($1, $2)", "rewards", header(record, "id")).Scan(&first)
		if err != nil || !first {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE accounts SET points = points + 10 WHERE id = $1", string(record.Key))
		return err // not nil: everything is rolled back, the claim too
	})
}

func header(record *kgo.Record, name string) string {
	for _, header := range record.Headers {
		if header.Key == name {
			return string(header.Value)
		}
	}
	return ""
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	db, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	kafka, err := kgo.NewClient(
		kgo.SeedBrokers(os.Getenv("BROKERS")),
		kgo.ConsumerGroup(os.Getenv("GROUP")),
		kgo.ConsumeTopics(os.Getenv("TOPIC")),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.SessionTimeout(10*time.Second), // how long the group waits for a member that was killed
	)
	if err != nil {
		log.Fatal(err)
	}
	defer kafka.Close()
	for {
		fetches := kafka.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		fetches.EachError(func(topic string, partition int32, err error) {
			log.Printf("%s/%d: %v", topic, partition, err)
		})
		for _, record := range fetches.Records() {
			if err := credit(ctx, db, record); err != nil {
				log.Fatal(err) // the record comes again after the restart
			}
		}
		if err := kafka.CommitRecords(ctx, fetches.Records()...); err != nil {
			log.Print(err) // a rebalance: the records come again, and find their claims
		}
	}
}
