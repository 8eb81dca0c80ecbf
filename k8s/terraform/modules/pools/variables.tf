variable "project_id" {
  description = "Project of the cluster."
  type        = string
}

variable "cluster_id" {
  description = "Cluster that the pools belong to."
  type        = string
}

variable "region" {
  description = "Region of the cluster."
  type        = string
}

variable "labels" {
  description = "Labels of every machine, for the bill."
  type        = map(string)
}

variable "node_service_account" {
  description = "E-mail address of the service account that the machines themselves work as."
  type        = string
}

variable "disk_key_id" {
  description = "KMS key of the boot disks."
  type        = string
}

variable "general" {
  description = "The pool of everything without a GPU: site, gateway, workers, key broker, controllers. Counts are per zone."
  type = object({
    machine_type = string
    min_nodes    = number
    max_nodes    = number
    disk_size_gb = optional(number, 100)
  })

  validation {
    condition     = var.general.min_nodes >= 1 && var.general.min_nodes <= var.general.max_nodes
    error_message = "general: min_nodes must be at least 1 and not above max_nodes."
  }
}

variable "gpu_pools" {
  description = "Pools with GPUs, by the name that the chart and STRONGROOM_NODE_POOL give them. Counts of nodes are per pool, over all of its zones."
  type = map(object({
    machine_type         = string
    accelerator_type     = string
    accelerator_count    = number
    mig_partition        = optional(string)
    time_sharing_clients = optional(number)
    spot                 = optional(bool, false)
    zones                = optional(list(string), [])
    local_ssd_count      = optional(number, 0)
    min_nodes            = number
    max_nodes            = number
    disk_size_gb         = optional(number, 200)
    disk_type            = optional(string, "pd-balanced")
    driver_version       = optional(string, "LATEST")
    surge_max            = optional(number, 0)
    unavailable_max      = optional(number, 1)
    labels               = optional(map(string), {})
  }))

  validation {
    condition     = alltrue([for name in keys(var.gpu_pools) : can(regex("^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$", name))])
    error_message = "The name of a pool is 1 to 30 of a-z, 0-9 and -, and neither begins nor ends with -."
  }

  validation {
    condition     = alltrue([for pool in values(var.gpu_pools) : pool.accelerator_type != "" && pool.accelerator_count >= 1])
    error_message = "A GPU pool needs an accelerator_type and an accelerator_count of at least 1."
  }

  validation {
    condition     = alltrue([for pool in values(var.gpu_pools) : contains([1, 2, 4, 8, 16], pool.accelerator_count)])
    error_message = "accelerator_count must be 1, 2, 4, 8 or 16."
  }

  validation {
    condition     = alltrue([for pool in values(var.gpu_pools) : pool.min_nodes >= 0 && pool.min_nodes <= pool.max_nodes && pool.max_nodes >= 1])
    error_message = "min_nodes must not be negative nor above max_nodes, which must be at least 1."
  }

  validation {
    condition     = alltrue([for pool in values(var.gpu_pools) : pool.mig_partition == null || can(regex("^[1-7]g\\.[0-9]{1,3}gb$", pool.mig_partition))])
    error_message = "mig_partition is written such as 1g.10gb."
  }

  # A partition has memory of its own. Shared in time, several nodes have one memory between them.
  validation {
    condition     = alltrue([for pool in values(var.gpu_pools) : pool.mig_partition == null || pool.time_sharing_clients == null])
    error_message = "A pool is either partitioned (mig_partition) or shared in time (time_sharing_clients), not both."
  }

  validation {
    condition     = alltrue([for pool in values(var.gpu_pools) : pool.time_sharing_clients == null || try(pool.time_sharing_clients >= 2 && pool.time_sharing_clients <= 48, false)])
    error_message = "time_sharing_clients must be between 2 and 48."
  }

  validation {
    condition     = alltrue([for pool in values(var.gpu_pools) : pool.surge_max >= 0 && pool.unavailable_max >= 0 && pool.surge_max + pool.unavailable_max >= 1])
    error_message = "An upgrade needs surge_max or unavailable_max: with both 0 it could never go on."
  }
}
