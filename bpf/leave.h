// SPDX-License-Identifier: Apache-2.0
//
// Policies where the stack has the last word: others may have translated what leaves it.
#pragma once

#include "judge.h"

// Are a packet's addresses such that others may put other ones there? Then it is judged where it leaves.
static __always_inline _Bool is_judged_later(const struct config *cfg, const struct packet *p,
					     const struct endpoint *to, const struct remote *r)
{
	return cfg->ask_conntrack && !p->served && !to && !(r && !r->host) &&
	       (p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP);
}

// The kernel's word on the work's packet, by the tuple of its answers: that is what they come with. The packet's tuple
// becomes the one between whoever sent it and whoever gets it in truth.
__noinline int find_way(struct __sk_buff *ctx)
{
	struct work *w = get_work();
	struct tuple began;
	struct judging *j;
	_Bool translated;
	enum way answers;

	if (!w)
		return UNTRACKED;
	j = &w->judging;
	began = j->packet.tuple;
	answers = find_tracked(ctx, &j->reverse, &began, &translated);
	if (answers == UNTRACKED)
		return UNTRACKED;
	j->packet.tuple = began;
	if (answers == FORWARD)
		turn_round(&j->packet.tuple, &began);
	turn_round(&j->reverse, &j->packet.tuple);
	return answers == FORWARD ? BACKWARD : FORWARD;
}

static __always_inline _Bool is_isolated_pod(const struct endpoint *ep)
{
	return ep && ep->ifindex && ep->egress | ep->ingress;
}

// The same for what leaves the stack: again, since others may have translated it. Where they may, the kernel's table
// says who sends it and who gets it in truth.
__noinline int judge_leaving(struct __sk_buff *ctx, struct packet *p)
{
	struct config *cfg = get_config();
	struct work *w = get_work();
	struct endpoint *from, *to;
	struct addr src, dst;

	if (!p || !w || !cfg)
		return -DROP_EGRESS_DENIED;
	src = p->src;
	dst = p->dst;
	to = bpf_map_lookup_elem(&endpoints, &dst);
	if ((!cfg->ask_conntrack && !is_isolated_pod(to)) || (is_neighbour_discovery(p) && p->ttl == ND_HOPS))
		return GO_ON;
	from = bpf_map_lookup_elem(&endpoints, &src);
	if (from && from->ifindex && !is_isolated_pod(from) && !is_isolated_pod(to))
		return GO_ON;
	if (find_ports(ctx, p) < 0)
		return is_isolated_pod(from) || is_isolated_pod(to) ? -DROP_FRAGMENT : GO_ON;
	if (is_icmp_error(p) && (is_related(ctx, p) || is_translated(ctx, p)))
		return GO_ON;
	set_packet(ctx, p, w);
	if (cfg->ask_conntrack && p->ports)
		w->judging.way = find_way(ctx);
	src = w->judging.packet.tuple.src;
	dst = w->judging.packet.tuple.dst;
	from = bpf_map_lookup_elem(&endpoints, &src);
	to = bpf_map_lookup_elem(&endpoints, &dst);
	if ((!is_isolated_pod(from) && !is_isolated_pod(to)) || (from && to && from->ifindex == to->ifindex))
		return GO_ON;
	w->judging.home = 0;
	set_end(&w->judging, 0, from);
	set_end(&w->judging, 1, to);
	return judge_packet(p);
}

// What the node itself sends to a pod passes. Where the pod's own packets are judged, it is remembered, so that the pod
// may answer.
__noinline int admit_own(struct __sk_buff *ctx, struct packet *p)
{
	struct work *w = get_work();
	struct endpoint *to;
	struct addr dst;

	if (!p || !w)
		return GO_ON;
	dst = p->dst;
	to = bpf_map_lookup_elem(&endpoints, &dst);
	if (!to || to->egress <= RULESET_CLOSED || is_neighbour_discovery(p) || is_icmp_error(p) ||
	    find_ports(ctx, p) < 0)
		return GO_ON;
	set_packet(ctx, p, w);
	w->judging.home = 1;
	set_end(&w->judging, 0, NULL);
	set_end(&w->judging, 1, NULL);
	judge_packet(p);
	return GO_ON;
}
