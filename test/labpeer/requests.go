package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// requests asks for each URL again and again, each time by a new connection, until SIGTERM. Each answer's first word
// goes to FILE as it comes, so that others see who answers. It prints how many there were; one that fails, or is not
// answered at all, ends it with an error.
func requests(file string, urls []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	var mu sync.Mutex // guards count, failed and out
	var count int
	var failed error
	var asking sync.WaitGroup
	for _, url := range urls {
		client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
		asking.Go(func() {
			ticker := time.NewTicker(2 * time.Millisecond)
			defer ticker.Stop()
			for ctx.Err() == nil {
				name, err := request(client, url)
				mu.Lock()
				if err != nil && failed == nil {
					failed = fmt.Errorf("after %d answers: %w", count, err)
					stop()
				}
				count++
				fmt.Fprintln(out, name)
				mu.Unlock()
				<-ticker.C
			}
		})
	}
	asking.Wait()
	fmt.Printf("%d answers\n", count)
	return failed
}

func request(client *http.Client, url string) (name string, err error) {
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, answer.Status)
	}
	_, _ = fmt.Sscan(string(body), &name)
	return name, err
}
