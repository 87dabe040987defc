package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"time"
)

// lookupPause is between two look-ups.
const lookupPause = 2 * time.Millisecond

// lookups looks a name up, over and over, each time anew: as often as until says if that is a number, else until there
// is a file of that name. There is one at least. It prints how many failed and how long they took.
func lookups(name, until string) error {
	resolver := &net.Resolver{PreferGo: true}
	count, _ := strconv.Atoi(until) // no number is a file
	ended := func(done int) bool {
		if count > 0 {
			return done == count
		}
		_, err := os.Stat(until)
		return err == nil
	}
	var took []time.Duration
	failed, last := 0, ""
	ticker := time.NewTicker(lookupPause)
	defer ticker.Stop()
	for {
		began := time.Now()
		err := timely(func(ctx context.Context) error {
			_, err := resolver.LookupNetIP(ctx, "ip4", name)
			return err
		})
		if err != nil {
			failed++
			last = fmt.Sprintf(" (%v)", err)
		}
		took = append(took, time.Since(began))
		if ended(len(took)) {
			break
		}
		<-ticker.C
	}
	slices.Sort(took)
	fmt.Printf("%d look-ups, %d failed%s; median %d us, longest %d us\n",
		len(took), failed, last, took[len(took)/2].Microseconds(), took[len(took)-1].Microseconds())
	return nil
}
