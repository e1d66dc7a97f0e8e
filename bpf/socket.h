// SPDX-License-Identifier: Apache-2.0
//
// Sockets of this node's processes: one that connects to a Service connects to a backend, and no packet is rewritten on
// its way. The program goes on seeing the Service's address. What is not decided here, the packet path decides.
#pragma once

#include "service.h"

enum { DENY, ALLOW };				    // what a control group's program answers
enum { ERR_CONNREFUSED = 111, ERR_ADDRINUSE = 98 }; // asm-generic/errno.h

static __always_inline struct addr address_of(const struct bpf_sock_addr *ctx, _Bool ipv6)
{
	if (!ipv6)
		return addr_v4(ctx->user_ip4);
	return (struct addr){{ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}};
}

static __always_inline void set_address(struct bpf_sock_addr *ctx, _Bool ipv6, const struct addr *a, __be16 port)
{
	ctx->user_port = port;
	if (!ipv6) {
		ctx->user_ip4 = a->word[3];
		return;
	}
	ctx->user_ip6[0] = a->word[0];
	ctx->user_ip6[1] = a->word[1];
	ctx->user_ip6[2] = a->word[2];
	ctx->user_ip6[3] = a->word[3];
}

// The frontend that a socket asks for. A loopback address is one only for the node's own processes (a hostPort on
// 127.0.0.1): a pod's loopback is the pod's.
static __always_inline struct frontend *frontend_of(struct bpf_sock_addr *ctx, const struct addr *a, __u64 cookie)
{
	struct config *cfg = get_config();

	if (!cfg || !cfg->services || (addr_is_local_only(a) && cookie != cfg->host_cookie))
		return NULL;
	return has_ports(ctx->protocol) ? find_frontend(a, ctx->user_port, ctx->protocol) : NULL;
}

// A Service's address, and a port that it does not have.
static __always_inline _Bool is_nobodys(struct bpf_sock_addr *ctx, const struct addr *a)
{
	struct frontend_key address = {.addr = *a};
	struct config *cfg = get_config();

	return cfg && cfg->services && is_service_address(cfg, a) && bpf_map_lookup_elem(&frontends, &address);
}

// The backend for a socket. Who may use a load balancer's address is asked of packets, which have a source; the node's
// own is known.
static __always_inline enum chosen choose_for(struct bpf_sock_addr *ctx, const struct frontend *f, __u64 cookie,
					      _Bool v4, struct backend *b)
{
	struct addr client = {{0, 0, cookie >> 32, (__u32)cookie}}; // sockets have no address yet: their namespace
	struct config *cfg = get_config();
	__u32 slot;

	if (!cfg || (f->flags & FRONTEND_SOURCE_RANGES &&
		     (cookie != cfg->host_cookie || !is_admitted(f, v4 ? &cfg->node[0] : &cfg->node[1]))))
		return DROP;
	return choose(f, &client, 0, bpf_get_prandom_u32(), b, &slot);
}

static __always_inline int deny_refused(void)
{
	bpf_set_retval(-ERR_CONNREFUSED);
	return DENY;
}

static __always_inline int on_connect(struct bpf_sock_addr *ctx, _Bool ipv6)
{
	struct addr a = address_of(ctx, ipv6);
	__u64 cookie = bpf_get_netns_cookie(ctx);
	struct frontend *f = frontend_of(ctx, &a, cookie);
	struct config *cfg = get_config();
	struct translation *t;
	struct backend b;

	if (!f || !cfg || (ctx->protocol == IPPROTO_UDP && !cfg->socket_udp)) {
		bpf_sk_storage_delete(&connected, ctx->sk); // of an earlier connect
		return f || !is_nobodys(ctx, &a) ? ALLOW : deny_refused();
	}
	switch (choose_for(ctx, f, cookie, addr_is_v4(&a), &b)) {
	case REFUSE:
		return deny_refused();
	case DROP: // the packet path is silent about it
		bpf_sk_storage_delete(&connected, ctx->sk);
		return ALLOW;
	case CHOSEN:
		break;
	}
	t = bpf_sk_storage_get(&connected, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!t)
		return ALLOW;
	*t = (struct translation){
		.generation = f->generation, .addr = a, .port = ctx->user_port, .set = 1, .backend = b};
	set_address(ctx, ipv6, &b.addr, b.port);
	return ALLOW;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx, 0);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx, 1);
}

// The translation of an earlier datagram to the same frontend. NULL: there is none.
static __always_inline struct translation *earlier(struct translations *all, const struct addr *a, __be16 port)
{
	for (__u32 i = 0; i < sizeof(all->of) / sizeof(all->of[0]); i++) {
		struct translation *t = &all->of[i];

		if (t->set && t->port == port && addr_equal(&t->addr, a))
			return t;
	}
	return NULL;
}

// A datagram goes where the one before it went, as long as that backend serves.
static __always_inline int on_sendmsg(struct bpf_sock_addr *ctx, _Bool ipv6)
{
	struct addr a = address_of(ctx, ipv6);
	__u64 cookie = bpf_get_netns_cookie(ctx);
	struct frontend *f = frontend_of(ctx, &a, cookie);
	struct translations *all;
	struct translation *t;
	struct backend b;

	if (!f)
		return is_nobodys(ctx, &a) ? deny_refused() : ALLOW;
	all = bpf_sk_storage_get(&datagrams, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!all)
		return ALLOW;
	t = earlier(all, &a, ctx->user_port);
	if (!t || (t->generation != f->generation && !find_member(f, &t->backend, 0))) {
		switch (choose_for(ctx, f, cookie, addr_is_v4(&a), &b)) {
		case REFUSE:
			return deny_refused();
		case DROP:
			return ALLOW;
		case CHOSEN:
			break;
		}
		if (!t)
			t = &all->of[all->next++ % (sizeof(all->of) / sizeof(all->of[0]))];
		*t = (struct translation){.addr = a, .port = ctx->user_port, .set = 1, .backend = b};
	}
	t->generation = f->generation;
	set_address(ctx, ipv6, &t->backend.addr, t->backend.port);
	return ALLOW;
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return on_sendmsg(ctx, 0);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return on_sendmsg(ctx, 1);
}

static __always_inline _Bool name_of(struct bpf_sock_addr *ctx, _Bool ipv6, const struct translation *t,
				     const struct backend *b)
{
	if (!t->set || !backend_equal(&t->backend, b))
		return 0;
	set_address(ctx, ipv6, &t->addr, t->port);
	return 1;
}

// A name that the kernel tells a program: a backend's becomes that of the frontend which the program knows.
static __always_inline int name_frontend(struct bpf_sock_addr *ctx, _Bool ipv6)
{
	struct backend b = {.addr = address_of(ctx, ipv6), .port = ctx->user_port};
	struct translation *t = bpf_sk_storage_get(&connected, ctx->sk, NULL, 0);
	struct translations *all;

	if (t && name_of(ctx, ipv6, t, &b))
		return ALLOW;
	all = bpf_sk_storage_get(&datagrams, ctx->sk, NULL, 0);
	if (!all)
		return ALLOW;
	for (__u32 i = 0; i < sizeof(all->of) / sizeof(all->of[0]); i++)
		if (name_of(ctx, ipv6, &all->of[i], &b))
			break;
	return ALLOW;
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return name_frontend(ctx, 0);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return name_frontend(ctx, 1);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return name_frontend(ctx, 0);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return name_frontend(ctx, 1);
}

// No process of the node may take a node port: it would never hear from it.
static __always_inline int on_bind(struct bpf_sock *sk, const struct addr *any)
{
	struct frontend_key key = {.addr = *any, .port = bpf_htons(sk->src_port), .proto = sk->protocol};
	struct config *cfg = get_config();

	if (!cfg || !cfg->services || bpf_get_netns_cookie(sk) != cfg->host_cookie ||
	    !bpf_map_lookup_elem(&frontends, &key))
		return ALLOW;
	bpf_set_retval(-ERR_ADDRINUSE);
	return DENY;
}

SEC("cgroup/post_bind4")
int bind4(struct bpf_sock *sk)
{
	struct addr any = addr_v4(0);

	return on_bind(sk, &any);
}

// An IPv6 socket may hear IPv4, too: that is not known of it yet.
SEC("cgroup/post_bind6")
int bind6(struct bpf_sock *sk)
{
	struct addr at = {{sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3]}};
	struct addr any = {}, any_v4 = addr_v4(0);

	if (!addr_is_v4(&at) && on_bind(sk, &any) == DENY)
		return DENY;
	return addr_is_v4(&at) || addr_equal(&at, &any) ? on_bind(sk, &any_v4) : ALLOW;
}
