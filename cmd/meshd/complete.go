package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// completionTimeout is how long a shell waits for names at a press of TAB.
const completionTimeout = time.Second

// complete offers names for the first most arguments. A daemon that cannot be reached offers nothing.
func complete(names func(*cobra.Command) []string, most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		parent := cmd.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, completionTimeout)
		defer cancel()
		cmd.SetContext(ctx)
		return names(cmd), cobra.ShellCompDirectiveNoFileComp
	}
}
