package main

import "github.com/spf13/cobra"

func evictCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "evict NODE",
		Short: "Shut a host out of the mesh for ever",
		Long: `Cut a host off from all others at once. Its key never gets in again: if it is to come
back, it has to leave and to join with a new token. NODE is a name or an id from ` + "`meshd members`" + `.
Only signers may do this.`,
		Example:           "  sudo meshd evict host-c",
		Args:              wants(1, 1, "the host's name or id"),
		ValidArgsFunction: complete(a.memberNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.client().Evict(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.say("%s is shut out.", args[0])
			return nil
		},
	}
}
