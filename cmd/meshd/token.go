package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func tokenCommand(a *app) *cobra.Command {
	return group("token", "Make, list and take back the tokens that admit hosts", tokenCreateCommand(a), tokenListCommand(a), tokenRevokeCommand(a))
}

func tokenCreateCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "create [--ttl 24h] [--uses N] [--signer] [-o json]",
		Short: "Make a token that lets a host join",
		Long: `Make a token and print the command with which a host joins. The token is shown only now.
Only signers may do this.`,
		Example: "  sudo meshd token create\n  sudo meshd token create --ttl 1h --uses 1",
		Args:    wants(0, 0, ""),
	}
	var req api.TokenRequest
	c.Flags().DurationVar(&req.TTL, "ttl", 24*time.Hour, "how long it is good for: `TIME` such as 30m or 24h")
	c.Flags().IntVar(&req.Uses, "uses", 0, "how many hosts it admits; 0: any number")
	c.Flags().BoolVar(&req.Signer, "signer", false, "hosts that join with it may make tokens and evict, too")
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if req.TTL <= 0 {
			return misused("--ttl %s: use a time longer than 0, such as 24h", req.TTL)
		}
		if req.Uses < 0 {
			return misused("--uses %d: use 0 or more", req.Uses)
		}
		token, err := a.client().CreateToken(cmd.Context(), req)
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(token)
		}
		a.say("On each host that should join, run before %s:\n\n    %s\n", token.Expires, token.JoinCommand)
		a.say("Take it back with: sudo meshd token revoke %s", token.ID)
		return nil
	}
	return c
}

func tokenListCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "ls [-o json]",
		Short:   "List the tokens, without their secrets",
		Example: "  meshd token ls",
		Args:    wants(0, 0, ""),
	}
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		tokens, err := a.client().Tokens(cmd.Context())
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(tokens)
		}
		t := newTable("ID", "STATE", "USED", "SIGNER", "CREATED", "EXPIRES", "BY")
		for _, token := range tokens {
			used := fmt.Sprint(token.Used)
			if token.Uses > 0 {
				used = fmt.Sprintf("%d of %d", token.Used, token.Uses)
			}
			t.add(token.ID, a.paintState(token.State), used, yesNo(token.Signer), token.Created, token.Expires, token.By)
		}
		a.print(t, "", "No tokens: make one with `meshd token create`.")
		return nil
	}
	return c
}

func tokenRevokeCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "revoke ID",
		Short:             "Take a token back",
		Long:              "Take a token back: nobody joins with it any more. Hosts that did stay.",
		Example:           "  sudo meshd token revoke ID",
		Args:              wants(1, 1, "the token's ID (see meshd token ls)"),
		ValidArgsFunction: complete(a.tokenIDs, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.client().RevokeToken(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.say("Token %s is taken back.", args[0])
			return nil
		},
	}
}

func (a *app) tokenIDs(cmd *cobra.Command) []string {
	tokens, err := a.client().Tokens(cmd.Context())
	if err != nil {
		return nil
	}
	var ids []string
	for _, t := range tokens {
		ids = append(ids, t.ID)
	}
	return ids
}
